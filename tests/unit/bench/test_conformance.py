"""What the bench of the public cache suite asks for before it boots anything."""

from pathlib import Path

import pytest

from bench.conformance import COMMIT, checkout
from lab import LabError


@pytest.mark.parametrize("given", [None, "", "."])
def test_without_the_suite_one_sentence_says_where_it_is(
    given: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OKOME_CACHE_TESTS", raising=False)
    if given is not None:
        monkeypatch.setenv("OKOME_CACHE_TESTS", given)
    with pytest.raises(LabError, match=f"git clone https://.* DIR`, `git -C DIR checkout {COMMIT}"):
        checkout()
