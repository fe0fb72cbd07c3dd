"""What every page has besides its text: a description for search engines and for whoever shares a link, a dotted line
under the first use of a word in each section that links to the glossary and shows what it means, and under the title of
a chapter its notebook, what that costs to run again, and how to cite it.
"""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

GLOSSARY = "glossary"
#: Formulas that stand for a word of the glossary, and how it is listed there.
SYMBOLS = {r"\epsilon": "epsilon", r"\tau": "tau", "e_i": "e_i"}
#: Where a word stays as it is.
UNTOUCHED = (nodes.reference, nodes.title, nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw)


def description(doctree: nodes.document, length: int = 200) -> str:
    """The page's first paragraph, cut at a word."""
    for paragraph in doctree.findall(nodes.paragraph):
        text = " ".join(paragraph.astext().split())
        if len(text) > 40:
            return text if len(text) <= length else f"{text[:length].rsplit(' ', 1)[0]} …"
    return ""


def _meta(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    if doctree is None:
        return
    title = re.sub(r"<[^>]*>", "", context.get("title", ""))
    properties = {
        "og:type": "article",
        "og:title": title,
        "og:description": description(doctree),
        "og:image": f"{app.config.html_baseurl}_static/cover.webp",
        "og:image:alt": "A stand full of faces, half of it as a face detector sees it before and half after an attack",
    }
    tags = [f'<meta property="{name}" content="{escape(text, quote=True)}" />' for name, text in properties.items()]
    tags.append(f'<meta name="description" content="{escape(properties["og:description"], quote=True)}" />')
    context["metatags"] = re.sub(
        r'<meta (property="og:|name="description")[^>]*>\s*', "", context.get("metatags", "")
    ) + "\n".join(tags)


def _offer(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    path = Path(app.srcdir, f"{page}.ipynb")
    if doctree is None or not path.is_file():
        return
    made = json.loads(path.read_text(encoding="utf8"))["metadata"].get("papermill", {})
    profile, seconds = made.get("parameters", {}).get("profile", "quick"), made.get("duration")
    cost = f": {seconds:.0f} s when this book was built, {profile} profile" if seconds else ""
    offer = (
        f'<p class="lip-offer"><a href="notebooks/{page}.ipynb" download>Download the notebook</a>'
        f'<span><a href="rerun.html">Run it again</a>{cost}</span><a href="paper.html#how-to-cite">Cite</a></p>'
    )
    context["body"] = context["body"].replace("</h1>", f"</h1>\n{offer}", 1)


def terms(glossary: nodes.document) -> dict[str, tuple[str, str]]:
    """Word -> its anchor and its explanation's first sentence."""
    found = {}
    for item in glossary.findall(nodes.definition_list_item):
        words = [child for child in item.children if isinstance(child, nodes.term)]
        meaning = " ".join(next(item.findall(nodes.definition)).astext().split())
        first = re.split(r"(?<=[.:])\s+(?=[A-Z])", meaning)[0]
        for word in words:
            if word["ids"]:
                found[word.astext()] = (word["ids"][0], first)
    return found


def _link_terms(app: Sphinx, doctree: nodes.document, page: str) -> None:
    if page == GLOSSARY or page.startswith("api") or GLOSSARY not in app.env.found_docs:
        return
    known = terms(app.env.get_doctree(GLOSSARY))
    words = sorted((w for w in known if re.fullmatch(r"[A-Z][\w-]*", w)), key=len, reverse=True)
    pattern = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, words))})(?![\w-])")
    target = app.builder.get_relative_uri(page, GLOSSARY)
    seen: dict[int, set[str]] = {}
    for paragraph in list(doctree.findall(lambda n: isinstance(n, nodes.paragraph))):
        section = paragraph.parent
        while section is not None and not isinstance(section, nodes.section):
            section = section.parent
        done = seen.setdefault(id(section), set())
        for node in list(paragraph.findall(nodes.math)):
            word = SYMBOLS.get(node.astext())
            if word in known and word not in done and not _inside(node.parent, UNTOUCHED):
                done.add(word)
                node.parent.replace(node, _link(target, known[word], node.deepcopy()))
        for text in list(paragraph.findall(nodes.Text)):
            if _inside(text.parent, UNTOUCHED):
                continue
            pieces: list[nodes.Node] = []
            at = 0
            for match in pattern.finditer(text):
                word = match.group()
                if word in done:
                    continue
                done.add(word)
                pieces += [nodes.Text(text[at : match.start()]), _link(target, known[word], nodes.Text(word))]
                at = match.end()
            if pieces:
                text.parent.replace(text, [*pieces, nodes.Text(text[at:])])


def _inside(node: nodes.Node | None, kinds: tuple[type, ...]) -> bool:
    while node is not None:
        if isinstance(node, kinds):
            return True
        node = node.parent
    return False


def _link(page: str, term: tuple[str, str], shown: nodes.Node) -> nodes.reference:
    anchor, meaning = term
    uri = f"{page}#{anchor}"
    return nodes.reference("", "", shown, internal=True, refuri=uri, reftitle=meaning, classes=["lip-term"])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("html-page-context", _meta, priority=900)
    app.connect("html-page-context", _offer)
    app.connect("doctree-resolved", _link_terms)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
