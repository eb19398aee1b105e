"""What pages of ours say in a way of their own: numbers of records, lines of the source beside a formula, and formulas as
MathML, which needs no script.
"""

import latex2mathml.converter
import pages
import sources
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole


class Figure(SphinxRole):
    """{figure}`record :: row :: column`: one number of a record."""

    def run(self):
        try:
            text = pages.figure(self.text)
        except ValueError as error:
            message = self.inliner.reporter.error(str(error), line=self.lineno)
            return [self.inliner.problematic(self.rawtext, self.rawtext, message)], [message]
        return [nodes.inline(text, text, classes=["figure"])], []


class Record(SphinxDirective):
    """A record's table, or the rows of it that begin with one of those named in the content."""

    required_arguments = 1
    has_content = True
    option_spec = {"columns": directives.unchanged}  # noqa: RUF012

    def run(self):
        found = pages.record(self.arguments[0])
        rows = pages._rows_of(self.arguments[0], [line.strip() for line in self.content if line.strip()])
        if "columns" in self.options:
            wanted = [name.strip() for name in self.options["columns"].split("|")]
            rows = [{name: row[name] for name in wanted} for row in rows]
        self.env.note_dependency(str(pages.RECORDS / f"{self.arguments[0]}.json"))
        return self.parse_text_to_nodes(f"{pages.table(rows)}\n\n{pages.provenance(found)}\n")


class Source(SphinxDirective):
    """Lines of the source, as they stand there: ```{source} vaekit.tensors.gaussian_kl, and in the content a text of the first
    and of the last of them. Without content it is the whole.
    """

    required_arguments = 1
    has_content = True

    def run(self):
        name = self.arguments[0]
        code, first = sources.lines_of(name, list(self.content))
        home = sources.file_of(name)
        self.env.note_dependency(str(home))
        link = nodes.literal(name, name)
        if "._" not in name.replace(".__", ""):  # what is private has no place in the reference
            target = {"refdomain": "py", "reftype": "obj", "reftarget": sources.documented(name)}
            link = addnodes.pending_xref("", link, refexplicit=True, refwarn=True, **target)
        where = nodes.paragraph(
            "", "", link, nodes.Text(f", line {first} of {home.relative_to(pages.DOCS.parent)}"), classes=["source"]
        )
        block = nodes.literal_block(code, code, language="python")
        return [nodes.container("", where, block, classes=["source"])]


def visit_math(self, node):
    self.body.append(latex2mathml.converter.convert(node.astext()))
    raise nodes.SkipNode


def visit_displaymath(self, node):
    self.body.append(latex2mathml.converter.convert(node.astext(), display="block"))
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict:
    app.add_role("figure", Figure())
    app.add_directive("record", Record)
    app.add_directive("source", Source)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_displaymath, None))
    return {"parallel_read_safe": True}
