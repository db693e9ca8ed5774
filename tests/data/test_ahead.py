"""Items read ahead by worker processes: their order, their errors, and what a leaving parent makes them say."""

import os
import sys
from multiprocessing import current_process, resource_sharer
from multiprocessing.connection import Client

import pytest
import torch

from alitok.core.errors import AlitokError
from alitok.data.loader import read_ahead


class Squares:
    def __getitem__(self, number):
        if number == 7:
            return AlitokError("item 7 is broken")
        return torch.tensor(number**2)


@pytest.mark.parametrize("workers", [0, 2])
def test_items_come_in_the_order_asked_for_until_one_is_an_error(workers):
    items = read_ahead(Squares(), [5, 1, 3, 7, 2], workers)
    assert [int(next(items)) for _ in range(3)] == [25, 1, 9]
    with pytest.raises(AlitokError, match="item 7 is broken"):
        next(items)


class BrokenConnections:
    """Each item comes after a client that broke off, as a parent does that ends while it fetches one."""

    def __getitem__(self, number):
        mine = resource_sharer.DupFd(sys.stdout.fileno())
        address, _ = mine._id
        Client(address, authkey=current_process().authkey).close()
        os.close(mine.detach())  # served after the broken one
        if number == 1:
            resource_sharer._resource_sharer._cache.clear()
            theirs = resource_sharer.DupFd(sys.stdout.fileno())
            resource_sharer._resource_sharer._cache.clear()
            with pytest.raises(EOFError):
                theirs.detach()  # a KeyError in the thread, which is no leaving parent
        return number


def test_a_parent_that_leaves_while_it_fetches_an_item_causes_no_traceback(capfd):
    assert list(read_ahead(BrokenConnections(), [0], 1)) == [0]
    assert capfd.readouterr().err == ""
    assert list(read_ahead(BrokenConnections(), [1], 1)) == [1]
    assert "KeyError" in capfd.readouterr().err
