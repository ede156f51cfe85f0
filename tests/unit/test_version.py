"""The package can be imported and says which version it is."""

from harvest_brain import __version__


def test_the_version_has_three_parts() -> None:
    assert len(__version__.split(".")) == 3
