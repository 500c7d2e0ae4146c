"""Tables of the documentation that follow from the code.

`python -m tfrecord_tools.metadata.markdown` prints them: of docs/data/records.md the codes of diagnoses, of
docs/data/sources.md the forms of tables and the words of each source.
"""

from __future__ import annotations

from tfrecord_tools.metadata import vocabulary
from tfrecord_tools.metadata.forms import FORMS, Form
from tfrecord_tools.metadata.words import DIAGNOSIS_WORDS, SEX_WORDS, SITE_WORDS
from tfrecord_tools.schema import DIAGNOSIS, MISSING, SEX, SITE


def vocabulary_markdown() -> str:
    """Returns each code of a diagnosis and the words that map to it, as a Markdown table of docs/data/records.md."""
    union: dict[str, dict[str, None]] = {name: {} for name in DIAGNOSIS}  # a dict keeps the order
    for published in DIAGNOSIS_WORDS.values():
        for word, meaning in published.items():
            union[meaning][word] = None
    lines = ["| code | diagnosis | words that become it |", "| ---: | --- | --- |"]
    for code, name in enumerate(DIAGNOSIS):
        lines.append(f"| {code} | {name} | {'; '.join(word for word in union[name] if word != name) or '–'} |")
    return "\n".join(lines) + "\n"


def mapping_markdown() -> str:
    """Returns the mapping of every source's words to the vocabularies, as the tables of docs/data/sources.md."""
    tables = (("sex", SEX_WORDS, SEX), ("site", SITE_WORDS, SITE), ("diagnosis", DIAGNOSIS_WORDS, DIAGNOSIS))
    lines: list[str] = []
    for title, published, ours in tables:
        more = " target |" if ours is DIAGNOSIS else ""
        lines += ["", f"| source | its {title} | ours | code |{more}", "|" + " --- |" * (5 if more else 4)]
        for source, words in published.items():
            for word, meaning in words.items():
                code = ours.index(meaning) if meaning else MISSING
                target = f" {_described_target(source, word, meaning)} |" if more else ""
                lines.append(f"| {source} | {word} | {meaning or '(missing)'} | {code} |{target}")
    return "\n".join(lines[1:]) + "\n"


def forms_markdown() -> str:
    """Returns the form of each published table, its columns and what its label means, for docs/data/sources.md."""
    lines = ["| form | table | recognized by | also read | its label means |", "| --- | --- | --- | --- | --- |"]
    for form in FORMS:
        needs = ", ".join(f"`{column}`" for column in form.missing([])) if not form.header else "no header"
        also = ", ".join(f"`{column}`" for column in _further(form)) or "–"
        lines.append(f"| {form.name} | {form.title} | {needs} | {also} | {form.meaning or 'unlabelled'} |")
    return "\n".join(lines) + "\n"


def _further(form: Form) -> list[str]:
    """Columns that a form reads where a table has them; of levels, the first and last."""
    needed = form.missing([])
    listed = [*form.optional.values(), *form.more_classes]
    listed += [f"{levels[0]}` to `{levels[-1]}" for levels in (form.levels, form.sites) if levels]
    return [column for column in listed if column not in needed]


def _described_target(source: str, word: str, meaning: str) -> str:
    if source == "isic2020":
        return "its own"
    return "by benign_malignant" if vocabulary.is_undecided(word) else str(int(meaning == "melanoma"))


if __name__ == "__main__":
    print(vocabulary_markdown() + "\n" + forms_markdown() + "\n" + mapping_markdown(), end="")
