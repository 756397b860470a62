import csv
import json

import pytest
from data_builders import process_seconds

from diffmem.data.prompts import comparable, read_prompts
from diffmem.errors import UserError


def jsonl(path, rows, encoding="utf-8"):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding=encoding)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_text_has_a_prompt_on_each_line_in_utf8_or_utf16(tmp_path, encoding):
    path = tmp_path / "prompts.txt"
    path.write_text("a photo of sks\n\n  a café \na photo of sks\n", encoding=encoding)
    found = read_prompts(path)
    assert found.texts == ("a photo of sks", "a café", "a photo of sks")
    assert found.groups == found.files == found.seeds == (None,) * 3


@pytest.mark.parametrize("key", ["prompt", "text", "caption", "Prompt", "TEXT"])
def test_json_lines_have_prompts_files_groups_and_seeds(tmp_path, key):
    rows = [
        {"file_name": "./a\\1.png", key: " x ", "group": "train", "seed": 7},
        {key: "", "file_name": "b.png"},
    ]
    found = read_prompts(jsonl(tmp_path / "metadata.jsonl", rows))
    assert (found.texts, found.groups) == (("x", ""), ("train", None))
    assert (found.files, found.seeds) == (("a/1.png", "b.png"), (7, None))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_csv_is_read_with_any_of_the_usual_delimiters_and_encodings(tmp_path, encoding, delimiter):
    path = tmp_path / "prompts.csv"
    with path.open("w", newline="", encoding=encoding) as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerows([["seed", "prompt", "group"], ["3", "a cat,\nasleep; é", "control"], ["", "b", ""]])
    found = read_prompts(path)
    assert found.texts == ("a cat,\nasleep; é", "b")
    assert (found.seeds, found.groups) == ((3, None), ("control", None))


def test_prompts_that_differ_in_case_and_spaces_alone_are_one():
    assert comparable(" A  Photo\tof SKS ") == "a photo of sks"


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([{"words": "x"}], "entry 1 has no prompt"),
        ([{"prompt": "x"}, {"prompt": "x", "text": "y"}], "entry 2 has several prompts"),
        ([{"prompt": 3}], "the prompt 3 is no text"),
        ([{"prompt": "x", "group": "traim"}], "the group traim is none of train"),
        ([{"prompt": "x", "seed": -1}], "the seed -1 is no whole number"),
        ([{"prompt": "x", "seed": True}], "the seed True is no whole number"),
        ([{"prompt": "x", "file_name": 3}], "file_name 3 is no name"),
        ([], "holds no prompts"),
    ],
)
def test_a_list_that_is_not_understood_is_refused_with_what_is_wrong(tmp_path, rows, text):
    with pytest.raises(UserError, match=text):
        read_prompts(jsonl(tmp_path / "p.jsonl", rows))


def test_the_same_text_under_two_names_is_one_prompt(tmp_path):
    assert read_prompts(jsonl(tmp_path / "p.jsonl", [{"prompt": "x", "text": "x"}])).texts == ("x",)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("p.txt", b"\n \n", "holds no prompts"),
        ("p.txt", "é".encode("latin-1"), "no text in UTF-8 or UTF-16"),
        ("p.txt", "abc".encode("utf-16-le"), "holds zero bytes"),
        ("p.jsonl", b'{"prompt": "x"\n', "is no JSON"),
        ("p.jsonl", b'["x"]\n', "is no JSON object"),
        ("p.csv", b"a,a\n1,2\n", "two of its columns have one name"),
        ("p.csv", b"prompt,seed\nx\n", "line 2 has 1 cells"),
        ("p.md", b"x", "is no list of prompts"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, name, content, text):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=text):
        read_prompts(path)
    with pytest.raises(UserError, match="There is no file"):
        read_prompts(tmp_path / "none.txt")


def test_a_hundred_thousand_prompts_take_little_longer_than_their_json(tmp_path):
    path = jsonl(
        tmp_path / "p.jsonl", [{"file_name": f"{n}.png", "prompt": f"a photo of {n}"} for n in range(100_000)]
    )
    seconds, found = process_seconds(lambda: read_prompts(path))
    plain, _ = process_seconds(lambda: [json.loads(line) for line in path.read_text().splitlines()])
    assert len(found) == 100_000
    assert seconds < 5 * plain  # it is 2; 0.3 s


def test_a_line_of_a_text_ends_where_other_programs_end_it(tmp_path):
    (tmp_path / "a.txt").write_bytes("a\u2028hat\r\nb\x0bc\rd\n".encode())
    assert read_prompts(tmp_path / "a.txt").texts == ("a\u2028hat", "b\x0bc", "d")


def test_a_prompt_that_cannot_be_written_is_refused(tmp_path):
    for prompt in (r"a \ud83d", r"a \u0000 b"):
        (tmp_path / "a_b.jsonl").write_text(f'{{"prompt": "{prompt}"}}\n')
        with pytest.raises(UserError, match=r"a_b.jsonl must be plain Unicode text"):
            read_prompts(tmp_path / "a_b.jsonl")


def test_a_prompt_with_commas_and_without_quotes_is_told(tmp_path):
    (tmp_path / "a.csv").write_text("prompt\na cat, red\n")
    with pytest.raises(UserError, match="a text with commas must stand in quotes"):
        read_prompts(tmp_path / "a.csv")
