from __future__ import annotations

import gc

import pytest

from runtime.memory import nothing_is_garbage


def test_the_collector_rests_and_comes_back_also_after_an_error() -> None:
    assert gc.isenabled()
    with nothing_is_garbage():
        assert not gc.isenabled()
        with nothing_is_garbage():
            pass
        assert not gc.isenabled()
    with pytest.raises(KeyError), nothing_is_garbage():
        raise KeyError
    assert gc.isenabled()
