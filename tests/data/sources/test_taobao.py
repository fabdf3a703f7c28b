import gzip
from collections.abc import Mapping
from pathlib import Path

import pytest

from prerank.data.sources import open_source
from prerank.errors import DataError

# Headers as published: one ends in a space, and nonclk comes before clk.
PUBLISHED = {
    "raw_sample.csv": """user,time_stamp,adgroup_id,pid,nonclk,clk
581738,1494137644,1,430548_1007,1,0
449818,1494638778,3,430548_1007,0,1
1,1494300000,1,430539_1007,1,0
581738,1494137000,3,430539_1007,0,1
581738,1494137001,99,430539_1007,0,1
""",
    "ad_feature.csv": """adgroup_id,cate_id,campaign_id,customer,brand,price
1,6406,83237,1,95471,170.0
3,9025,2,88,NULL,35.5
7,1,1,1,1,1.0
""",
    "user_profile.csv": """userid,cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,shopping_level,"""
    """occupation,new_user_class_level 
449818,0,5,2,5,,3,0,3
581738,93,7,2,6,2,3,0,
""",  # noqa: W291
    "behavior_log.csv": """user,time_stamp,btag,cate,brand
558157,1493741625,pv,6250,91286
581738,1493741626,pv,6251,91287
581738,1493741627,cart,6252,91288
581738,1493741620,pv,6253,91289
449818,-5,fav,6253,91289
449818,1493741628,buy,6253,91289
""",
}


def publish(folder: Path, zipped: bool = False, changes: Mapping[str, str] = {}) -> None:
    for name, text in {**PUBLISHED, **changes}.items():
        path = folder / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())


@pytest.mark.parametrize("zipped", [False, True])
def test_impressions_are_joined_and_keep_their_order(zipped: bool, tmp_path: Path) -> None:
    publish(tmp_path, zipped)
    log = open_source("taobao", tmp_path)
    # User 1 has no profile and ad 99 no features.
    assert log.events.columns == ["user", "item", "time", "label", "pid"]
    assert log.events.rows() == [
        (581738, 1, 1494137644, 0, "430548_1007"),
        (449818, 3, 1494638778, 1, "430548_1007"),
        (581738, 3, 1494137000, 1, "430539_1007"),
    ]
    assert log.items.rows() == [
        (1, 6406, 83237, 1, 95471, 170.0),
        (3, 9025, 2, 88, None, 35.5),
        (7, 1, 1, 1, 1, 1.0),
    ]
    assert log.users.columns[-1] == "new_user_class_level"
    assert log.users.rows() == [(449818, 0, 5, 2, 5, None, 3, 0, 3), (581738, 93, 7, 2, 6, 2, 3, 0, None)]
    assert log.records is not None
    assert log.records.columns == ["user", "time", "cate_id", "brand"]
    assert log.records.rows() == [(581738, 1493741626, 6251, 91287), (581738, 1493741620, 6253, 91289)]
    assert log.schema.history_of == "records"
    assert [field.name for field in log.schema.history_fields] == ["cate_id", "brand"]


def test_ad_clicks_need_no_behaviour_log(tmp_path: Path) -> None:
    publish(tmp_path)
    (tmp_path / "behavior_log.csv").unlink()
    log = open_source("taobao-ad-clicks", tmp_path)
    assert log.records is None
    assert log.schema.history_of == "items"
    assert log.events["behaviour"].to_list() == [False, True, True]
    with pytest.raises(DataError, match=r"behavior_log\.csv not found; needed there: .*needs a login"):
        open_source("taobao", tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("raw_sample", "user,time_stamp\n1,2\n", r"raw_sample\.csv: no column 'adgroup_id'; its columns: user"),
        (
            "raw_sample",
            PUBLISHED["raw_sample.csv"].replace("1494638778", "yesterday"),
            r"raw_sample\.csv: row 2, column 'time_stamp': 'yesterday' is not a whole number",
        ),
        (
            "raw_sample",
            PUBLISHED["raw_sample.csv"].replace("1494638778", ""),
            r"raw_sample\.csv: row 2, column 'time_stamp': is missing",
        ),
        (
            "raw_sample",
            PUBLISHED["raw_sample.csv"].replace("1007,0,1\n1,", "1007,0,2\n1,"),
            r"raw_sample\.csv: row 2, column 'clk': '2' is not 0 or 1",
        ),
        (
            "raw_sample",
            PUBLISHED["raw_sample.csv"].replace("1007,0,1\n1,", "1007,0,1,5\n1,"),
            r"raw_sample\.csv: row 2 has 7 fields, the header has 6",
        ),
        (
            "ad_feature",
            PUBLISHED["ad_feature.csv"] + "3,1,1,1,1,1.0\n",
            r"ad_feature\.csv: row 4, column 'adgroup_id': 3 occurs twice",
        ),
        (
            "user_profile",
            PUBLISHED["user_profile.csv"].replace("581738,93", "581738,old"),
            r"user_profile\.csv: row 2, column 'cms_segid': 'old' is not a whole number",
        ),
        (
            "behavior_log",
            PUBLISHED["behavior_log.csv"].replace("6252", "shoes"),
            r"behavior_log\.csv: row 3, column 'cate': 'shoes' is not a whole number",
        ),
        ("behavior_log", "", r"behavior_log\.csv: cannot be read"),
    ],
)
def test_a_broken_file_is_named_with_its_row(file: str, text: str, message: str, tmp_path: Path) -> None:
    publish(tmp_path, changes={f"{file}.csv": text})
    with pytest.raises(DataError, match=message):
        open_source("taobao", tmp_path)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    publish(tmp_path, zipped=True)
    path = tmp_path / "raw_sample.csv.gz"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"raw_sample\.csv\.gz: cannot be read"):
        open_source("taobao", tmp_path)
