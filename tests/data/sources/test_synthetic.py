import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from prerank.data.sources.synthetic import best_auc, checkerboard


def test_users_touch_items_of_one_category_only() -> None:
    log = checkerboard(users=30, items=20, events_per_user=5, groups=4)
    joined = log.events.join(log.items, left_on="item", right_on="item_id")
    assert joined.group_by("user").agg(pl.col("category").n_unique())["category"].to_list() == [1] * 30
    assert log.events.group_by("user").agg(pl.col("item").n_unique())["item"].to_list() == [5] * 30
    assert log.events["time"].to_list() == list(range(150))
    assert log.items.group_by("category").len()["len"].to_list() == [5] * 4
    told = log.users.filter(pl.col("city") != "city-any")
    assert told.height == 15
    groups = joined.join(told, left_on="user", right_on="user_id")
    assert (groups["city"].str.strip_prefix("city-") == groups["category"].str.strip_prefix("category-")).all()


def test_unrevealed_features_say_nothing_and_the_seed_decides() -> None:
    log = checkerboard(seed=3, revealed=False)
    assert log.users["city"].n_unique() == 1
    assert log.items["category"].n_unique() == 1
    assert_frame_equal(log.events, checkerboard(seed=3).events)
    assert not log.events.equals(checkerboard(seed=4).events)


def test_best_auc_is_that_of_a_scorer_that_knows_the_groups() -> None:
    log = checkerboard(users=400, items=40, events_per_user=6, groups=4)
    groups = dict(log.items.iter_rows())
    rng = np.random.default_rng(0)
    won = []
    for _, items in log.events.group_by("user", maintain_order=True).agg("item").iter_rows():
        unseen = [item for item in groups if item not in items]
        for negative in rng.choice(unseen, 50):
            won.append(0.5 if groups[negative] == groups[items[0]] else 1.0)
    assert best_auc(items=40, events_per_user=6, groups=4) == pytest.approx(1 - 4 / 34 / 2)
    assert np.mean(won) == pytest.approx(1 - 4 / 34 / 2, abs=0.005)


def test_a_group_must_have_an_item_for_every_event() -> None:
    with pytest.raises(ValueError, match="6 events per user need groups of that many items, not 5"):
        checkerboard(items=20, events_per_user=6, groups=4)
