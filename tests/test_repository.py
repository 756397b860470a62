"""What a public repository has: one version, workflows that run what is run here, and forms that ask for what is needed."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import diffmem

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted(path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")


def text_of(path):
    return (ROOT / path).read_text("utf-8")


def steps(path):
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        yield from job["steps"]


def test_the_version_is_the_same_wherever_it_stands():
    assert yaml.safe_load(text_of("CITATION.cff"))["version"] == diffmem.__version__
    newest = re.search(r"^## \[(.+?)\]", text_of("CHANGELOG.md"), re.MULTILINE)
    assert newest[1] in (diffmem.__version__, "Unreleased")
    assert "version" in tomllib.loads(text_of("pyproject.toml"))["project"]["dynamic"]


def test_the_changelog_has_the_usual_headings():
    headings = set(re.findall(r"^### (.+)$", text_of("CHANGELOG.md"), re.MULTILINE))
    assert headings <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^## (\[.+?\]) - ", text_of("CHANGELOG.md"), re.MULTILINE)) >= {
        "[0.1.0]",
        "[0.2.0]",
    }


def test_the_workflow_runs_what_ci_runs_on_every_python_that_is_promised():
    workflow = ROOT / ".github/workflows/ci.yml"
    assert any(step.get("run") == ".ci/run" for step in steps(workflow))
    (job,) = yaml.safe_load(workflow.read_text())["jobs"].values()
    promised = re.findall(r"Python :: (3\.\d+)", text_of("pyproject.toml"))
    assert job["strategy"]["matrix"]["python"] == promised == ["3.11", "3.12", "3.13"]


def test_a_tag_runs_the_release_check():
    assert any(
        step.get("run") == "make release-check" for step in steps(ROOT / ".github/workflows/release.yml")
    )


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_calls_targets_that_exist(path):
    targets = set(re.findall(r"^([\w-]+):", text_of("Makefile"), re.MULTILINE))
    called = {
        target for step in steps(path) for target in re.findall(r"\bmake ([\w-]+)", step.get("run", ""))
    }
    assert called <= targets


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_for_issues_asks_for_what_doctor_prints(path):
    fields = {part.get("id"): part for part in yaml.safe_load(path.read_text())["body"]}
    assert "diffmem doctor" in fields["doctor"]["attributes"]["description"]
    assert fields["doctor"]["validations"]["required"]


def test_untrusted_files_are_in_the_scope_of_security():
    assert "Nothing in them is executed" in text_of("SECURITY.md")
