"""A fitted model as ONNX files that need neither torch nor vaekit: encoder, decoder, code lookup, fitted prior. Each file is
run through onnxruntime and compared with PyTorch before anything is written.
"""

from vaekit.export.files import ExportFailed
from vaekit.export.writing import check_export, export_onnx

__all__ = ["ExportFailed", "check_export", "export_onnx"]
