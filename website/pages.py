"""The pages of the documentation that are made when it is built, from the program itself: a hook of mkdocs (`make docs`).

The commands come from the parser, the settings from their models, the fields of the files from the records, the public names from
`diffmem.__all__`; the first page is the README. So none of them is kept twice, and none can go stale.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from pydantic import BaseModel

import diffmem
from diffmem.cli import app
from diffmem.settings import settings_table

ROOT = Path(__file__).parents[1]

NAMES = {
    "Images": "ImageSet Reading open_images hold_out write_images",
    "Models": "Denoiser open_model open_text_model function_denoiser Optimum",
    "Train and generate": "train generate",
    "Measure": "measure measure_run",
    "Audit": "audit Audit",
    "Studies": "find_emm find_onset run_study open_emm open_study onset Curve",
    "Settings": "ModelConfig TrainingConfig EmaConfig EvaluationConfig SamplerConfig MeasureConfig DataConfig StudyRecipe SearchConfig",
    "Errors": "UserError DiffmemError",
}
"""Heading of the page of public names -> the names below it, in order."""

BEHIND = {
    "Models": "models.pretrained.text_model.TextModel",
    "Train and generate": "api.denoisers.Trained",
    "Measure": "api.measuring.Measured api.measuring.MeasuredRun",
    "Audit": "auditing.request.AuditOptions auditing.request.AuditRequest",
    "Studies": "api.studies.StudyFolder api.onset.Onset",
}
"""Heading of the page of public names -> what the functions there take or return, by module and name, and `diffmem` does not export."""

SETTINGS = {
    "One training": (
        "runs.recipe",
        "TrainRecipe",
        "`diffmem train --set key=value`, and the keys of a run's `config.yaml`.",
    ),
    "A study of fixed sizes": (
        "runs.recipe",
        "StudyRecipe",
        "A recipe for `diffmem study` has all keys of one training, and these.",
    ),
    "A search for EMM": (
        "studies.search.recipe",
        "SearchRecipe",
        "A recipe with `plan: search` has all keys above, and these.",
    ),
    "A search for the time until training copies": (
        "studies.search.recipe",
        "OnsetRecipe",
        "A recipe with `plan: onset` has all keys of a study of fixed sizes, and these.",
    ),
    "Where tasks run": (
        "executors.config",
        "ExecutorConfig",
        "The keys below `executor:`, in recipes and in `--executor`.",
    ),
}
"""Heading of the page of settings -> module, model and where these keys are written."""

RECORDS = {
    "audit": ("audit.json", "auditing", "AuditResult", "An audit (`diffmem audit`, `dm.audit`)."),
    "prompts": (
        "prompts.json",
        "auditing.prompts.records",
        "PromptsRecord",
        "Copies by prompt, beside an audit with `--prompts`.",
    ),
    "detectors": (
        "detectors.json",
        "auditing.prompts.detector_records",
        "DetectorsRecord",
        "Scores of prompts and their power, beside an audit by prompt.",
    ),
    "selftest": (
        "selftest.json",
        "auditing.selftest.records",
        "SelfTestResult",
        "`diffmem audit --self-test`.",
    ),
    "study": (
        "report.json",
        "studies.records",
        "StudyRecord",
        "A study: a grid of sizes, a search for EMM, or one for the time until training copies.",
    ),
    "experiment": (
        "result.json",
        "paper.records",
        "ExperimentResult",
        "An experiment of the paper (`diffmem reproduce`).",
    ),
    "gap": ("gap.json", "optimum.gap_records", "GapResult", "`diffmem gap`."),
    "optimum": ("optimum.json", "optimum.curves", "OptimumCurves", "`diffmem optimum`."),
}
"""Name of the page of a record -> file, module, class and what writes it."""

BESIDE_DOCS = {"CONTRIBUTING.md": "contributing", "CHANGELOG.md": "changelog", "SECURITY.md": "security"}
"""Pages of the repository's root -> their names below `project/`."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here to those of `docs/`."""
    made = {
        "index.md": readme(),
        "examples.md": examples(),
        "reference/commands.md": commands(),
        "reference/settings.md": settings(),
        "reference/api.md": public_names(),
        **{
            f"project/{name}.md": (ROOT / page).read_text("utf-8").replace("](docs/", "](../")
            for page, name in BESIDE_DOCS.items()
        },
        **dict(records()),
    }
    for name in ("LICENSE", "CITATION.cff"):
        made[f"project/{name}.txt"] = (ROOT / name).read_text("utf-8")
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Let links say what they lead to: in a repository a page is a file, on a site it is not."""
    return re.sub(r"\[([\w-]+)\.md\]\(", lambda found: f"[{found[1].replace('-', ' ')}](", markdown)


def on_post_page(output: str, page: Any, config: MkDocsConfig) -> str:
    """Refuse a page that would ask another server for anything.

    Raises:
        PluginError: It would.
    """
    asked = re.findall(
        r"""<(?:script|link|img|iframe|source)[^>]*?(?:src|href)=["']?((?:https?:)?//[^"' >]+)""", output
    )
    if asked:
        raise PluginError(f"{page.file.src_uri} loads {asked[0]} from another server.")
    return output


def readme() -> str:
    """Return the README with links as they are from the first page of the site."""
    text = (ROOT / "README.md").read_text("utf-8").replace("](docs/", "](")
    for page, name in BESIDE_DOCS.items():
        text = text.replace(f"]({page}", f"](project/{name}.md")
    for name in ("LICENSE", "CITATION.cff"):
        text = text.replace(f"]({name})", f"](project/{name}.txt)")
    return re.sub(r"\]\(examples(/[^)#]*)?\)", "](examples.md)", text)


def examples() -> str:
    """Return a page of the scripts in `examples/`."""
    page = (
        "# Examples\n\nScripts that run as they are, each in about a minute: `make examples` runs them all.\n"
    )
    for path in sorted((ROOT / "examples").glob("*.py")):
        page += f"\n## {path.name}\n\n```python\n{path.read_text('utf-8')}```\n"
    return page


def commands() -> str:
    """Return every command with its options, as the parser has them."""
    text = app.generate_docs(output_format="markdown")
    text = re.sub(r"## Table of Contents\n\n(?:\s*- .*\n)+", "", text, count=1)
    text = text.replace("# diffmem\n", "# Commands\n", 1)
    text = re.sub(r"^( *)Example: (.*)$", r"```sh\n\2\n```", text, flags=re.MULTILINE)
    return "".join(part if fenced else escaped(part) for part, fenced in parted(text))


def parted(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the parts of a Markdown text in order, each with whether it is code."""
    for index, part in enumerate(re.split(r"(```.*?```|`[^`\n]*`)", text, flags=re.DOTALL)):
        yield part, index % 2 == 1


def escaped(text: str) -> str:
    """Return plain text with what HTML would take for tags escaped."""
    return text.replace("<", "&lt;").replace(">", "&gt;")


def settings() -> str:
    """Return all keys of settings with default and meaning.

    Raises:
        PluginError: One has no meaning.
    """
    page = (
        "# Settings\n\nKeys of recipes and of `--set key=value`. A value is read as YAML; `null` unsets. An unknown key is an error that"
        " names the nearest one.\n"
    )
    known = set()
    for heading, (module, name, where) in SETTINGS.items():
        page += f"\n## {heading}\n\n{where}\n\n| key | default | meaning |\n| --- | --- | --- |\n"
        for row in settings_table(getattr(import_module(f"diffmem.{module}"), name)):
            key, default, meaning = row
            if not meaning:
                raise PluginError(f"The setting {key} of {name} says nothing about itself.")
            if row in known:
                continue
            known.add(row)
            page += f"| `{key}` | `{default}` | {cell(meaning)} |\n"
    return page


def cell(text: str) -> str:
    """Return a text as it stands in a table."""
    return escaped(" ".join(text.split())).replace("|", "\\|").replace("*", "\\*")


def public_names() -> str:
    """Return the page of everything in `import diffmem as dm`, for mkdocstrings.

    Raises:
        PluginError: A public name is missing on the page, or is not documented.
    """
    shown = [name for names in NAMES.values() for name in names.split()]
    other = set(shown) ^ (set(diffmem.__all__) - {"__version__"})
    if other:
        raise PluginError(f"website/pages.py and diffmem.__all__ differ in {', '.join(sorted(other))}.")
    page = (
        "# Public names\n\nEverything that `import diffmem as dm` offers, from its docstrings, and what its functions take and return;"
        " [Python](python.md) has them in one table. `dm.__version__` is the version.\n"
    )
    for heading, names in NAMES.items():
        page += f"\n## {heading}\n\n"
        for name in names.split():
            check_documented(name)
            page += f"::: diffmem.{name}\n\n"
        for name in BEHIND.get(heading, "").split():
            page += f"::: diffmem.{name}\n\n"
    return page


def check_documented(name: str) -> None:
    """Check that a public name, and what it offers by names of its own, is documented.

    Raises:
        PluginError: It is not.
    """
    value = getattr(diffmem, name)
    members = vars(value).items() if isinstance(value, type) else ()
    undocumented = [
        f"{name}.{own}"
        for own, member in members
        if not own.startswith("_")
        and (inspect.isroutine(member) or isinstance(member, property))
        and not inspect.getdoc(member)
    ]
    if isinstance(value, type) and issubclass(value, BaseModel):
        undocumented += [f"{name}.{own}" for own, field in value.model_fields.items() if not described(field)]
    if not inspect.getdoc(value) or undocumented:
        raise PluginError(f"Public names without a docstring: {', '.join(undocumented) or name}.")


def described(field: Any) -> bool:
    """Whether a setting says what it is, itself or by the settings that it holds."""
    return bool(field.description) or bool(re.search("Config|Model", str(field.annotation)))


def records() -> Iterator[tuple[str, str]]:
    """Yield the pages about the fields of JSON files, and their schemas."""
    index = (
        "# Files and their fields\n\nEvery report has a JSON file beside its page, with all numbers in it. The schemas are JSON Schema"
        " 2020-12.\n\n| file | what writes it | fields | schema |\n| --- | --- | --- | --- |\n"
    )
    for name, (file, module, kind, what) in RECORDS.items():
        schema = getattr(import_module(f"diffmem.{module}"), kind).model_json_schema()
        target = f"{name}.schema.json"
        index += f"| `{file}` | {what} | [{kind}]({name}.md) | [{target}]({target}) |\n"
        if name != "audit":  # docs/reference/audit.schema.json is published with the sources
            yield f"reference/schemas/{target}", json.dumps(schema, indent=1, ensure_ascii=False)
        yield f"reference/schemas/{name}.md", record_page(f"{file}: {kind}", what, schema)
    yield "reference/schemas/index.md", index.replace("(audit.schema.json)", "(../audit.schema.json)")


def record_page(title: str, what: str, schema: Mapping[str, Any]) -> str:
    """Return the page of one record: a table for it, and one for each record in it."""
    page = f"# {title}\n\n{what}\n"
    for name, part in {schema["title"]: schema, **schema.get("$defs", {})}.items():
        if "properties" not in part:
            continue
        page += f"\n## {name} {{ #{name.lower()} }}\n\n{escaped(inspect.cleandoc(part.get('description', '')))}\n\n"
        page += "| field | type | meaning |\n| --- | --- | --- |\n"
        for field, about in part["properties"].items():
            page += f"| `{field}` | {type_text(about)} | {cell(about.get('description', ''))} |\n"
    return page


def type_text(about: Mapping[str, Any]) -> str:
    """Return the type of a field in a schema, with a link where it is a record."""
    if "$ref" in about:
        name = about["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in about:
        return " or ".join(dict.fromkeys(type_text(one) for one in about["anyOf"]))
    if "enum" in about or "const" in about:
        return ", ".join(f"`{json.dumps(one)}`" for one in about.get("enum", [about.get("const")]))
    kind = about.get("type", "any")
    if kind == "array":
        entries = about.get("prefixItems") or [about.get("items", {})]
        return f"list of {', '.join(dict.fromkeys(type_text(one) for one in entries))}"
    if kind == "object" and isinstance(about.get("additionalProperties"), dict):
        return f"text -> {type_text(about['additionalProperties'])}"
    return {"object": "keys and values", "string": "text", "boolean": "true or false"}.get(kind, kind)
