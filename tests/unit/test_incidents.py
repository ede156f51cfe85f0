"""Every failure that was seen in the field is held by a test that says so by its name."""

from tests.incidents import ROOT, ROWS, holders, page


def test_every_row_is_held_by_a_test() -> None:
    assert [row for row, tests in holders().items() if not tests] == []


def test_no_test_names_a_row_that_does_not_exist() -> None:
    assert set(holders()) == set(ROWS)


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs/incidents.md").read_text() == page(), "run `make docs`"
