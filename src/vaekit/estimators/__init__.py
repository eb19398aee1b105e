"""The named models: fields, `fit`, and which parts and objective each stands for."""
