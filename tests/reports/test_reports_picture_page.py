from page_parser import Page, check_loads_nothing

from diffmem.reports.picture_page import PicturePage

PAGE = PicturePage(
    "Of a kind", "A <title>", "What was found", ("name", "number"), [("a & b", "1"), ("c", "2")], ("A note.",)
)


def test_a_page_holds_its_table_its_pictures_and_its_notes():
    source = PAGE.render({"A curve": b"png"}).decode()
    page = Page(source)
    check_loads_nothing(source, page)
    for word in ("Of a kind", "A <title>", "What was found", "name number a & b 1 c 2", "A note."):
        assert word in page.words
    assert [about["alt"] for tag, about in page.tags if tag == "img"] == ["A curve"]


def test_a_page_without_rows_and_notes_has_no_empty_parts():
    bare = PicturePage("Of a kind", "Title", "Nothing was found", ("name",), ())
    tags = {tag for tag, _ in Page(bare.render({}).decode()).tags}
    assert not tags & {"table", "figure", "h2"}
