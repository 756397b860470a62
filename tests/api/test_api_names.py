import importlib
import json
import subprocess
import sys

import pytest

import diffmem as dm


def loaded_by(code):
    done = subprocess.run(
        [sys.executable, "-c", f"import json, sys; {code}; print(json.dumps(sorted(sys.modules)))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(json.loads(done.stdout))


def test_importing_diffmem_loads_nothing_but_itself():
    loaded = {name for name in loaded_by("import diffmem") if name.startswith("diffmem")}
    assert loaded == {"diffmem", "diffmem.version"}


@pytest.mark.parametrize("name", [name for name in dm.__all__ if name != "__version__"])
def test_a_name_is_what_its_module_defines_however_often_it_is_asked_for(name):
    module = importlib.import_module(f"diffmem.{dm._ORIGINS[name]}")
    assert getattr(dm, name) is getattr(dm, name) is getattr(module, name)


def test_every_public_name_has_an_origin():
    assert {*dm._ORIGINS, "__version__"} == set(dm.__all__)
    assert set(dm.__all__) <= set(dir(dm))


def test_no_package_takes_the_place_of_a_function():
    code = (
        "import diffmem, importlib, pkgutil;"
        "[importlib.import_module(m.name) for m in pkgutil.iter_modules(diffmem.__path__, 'diffmem.') if m.name != 'diffmem.__main__'];"
        "import diffmem.auditing, diffmem.training, diffmem.memorization.measure, diffmem.sampling.generate, diffmem.api.studies;"
        "assert all(callable(getattr(diffmem, name)) for name in diffmem._ORIGINS)"
    )
    assert "diffmem.auditing" in loaded_by(code)


def test_an_unknown_name_is_an_ordinary_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = dm.trian
