"""Cross statistics of history and candidate: how many past behaviours share a value with it."""

from __future__ import annotations

import torch
from torch import Tensor

from prerank.batch import Ragged
from prerank.data.vocabulary import UNKNOWN


def count_matches(past: Tensor | Ragged, steps: Ragged, items: Tensor | Ragged) -> Tensor:
    """(B * C,) of each candidate, the behaviours of its request's history that share a value of one field with it.

    A behaviour counts once however many values it shares; unknown values match nothing. These are the exact-match
    statistics of InteractRank (WWW 2025) and GESR (2025), computed by joining on (request, value), so that time goes
    with the matches found and not with all pairs of behaviour and candidate.

    Args:
        past: the field's ids of M behaviours.
        steps: B histories as row numbers of ``past``.
        items: the field's ids of B * C candidates, those of the first request first.
    """
    requests = len(steps.lengths)
    step, value = _values(past.take(steps.values) if isinstance(past, Ragged) else past.index_select(0, steps.values))
    candidate, offered = _values(items)
    rows = len(items.lengths) if isinstance(items, Ragged) else len(items)
    each = rows // max(1, requests)
    size = 1 + int(torch.cat([value, offered, value.new_zeros(1)]).max())
    wanted = steps.owners.index_select(0, step) * size + value
    keys, order = torch.sort(candidate // max(1, each) * size + offered)
    first, last = torch.searchsorted(keys, wanted), torch.searchsorted(keys, wanted, right=True)
    found = last - first
    pair = torch.repeat_interleave(found)  # one entry a match: its place in ``step``
    places = torch.arange(len(pair)) - (found.cumsum(0) - found - first).index_select(0, pair)
    matched = candidate.index_select(0, order.index_select(0, places))
    if isinstance(past, Ragged) and isinstance(items, Ragged):  # two lists may share several values
        once = torch.unique(step.index_select(0, pair) * rows + matched)
        matched = once % rows
    return torch.bincount(matched, minlength=rows)


def _values(ids: Tensor | Ragged) -> tuple[Tensor, Tensor]:
    """The known values of R rows, and the row of each; a list that repeats a value has it once."""
    owners, values = (ids.owners, ids.values) if isinstance(ids, Ragged) else (torch.arange(len(ids)), ids)
    known = values != UNKNOWN
    owners, values = owners[known], values[known].long()
    if not isinstance(ids, Ragged) or not len(values):
        return owners, values
    size = 1 + int(values.max())
    distinct = torch.unique(owners * size + values)
    return distinct // size, distinct % size
