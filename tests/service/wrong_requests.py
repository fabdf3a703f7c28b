"""Wrong requests, each with the field that the answer has to name."""

from __future__ import annotations

from typing import Any

ITEMS = [f"item-{number:04}" for number in range(80)]
GOOD: dict[str, Any] = {"candidates": ITEMS[:4], "columns": {"bid": [1.0, 2.0, 3.0, 4.0]}}

FORMULAS = (
    *(
        "(score",
        "score)",
        "score,",
        "score, bid",
        "score; bid",
        "score\nbid",
        "score bid",
        "score = bid",
        "score +* bid",
    ),
    *("lambda x: x", "[score]", "{score}", "{}", "[]", "()", "[score for score in bid]", "{score: bid}", "*score"),
    *("score and bid", "score or bid", "not score", "score is bid", "score in bid", "~score", "score % bid"),
    *("score // bid", "score @ bid", "score << 1", "score & bid", "score | 1", "score ^ 2", "score if bid"),
    *("None", "True", "...", "1j", "1j * score", "b'a'", "f'{score}'", "'score' * 3", "score.real", "score[:1]"),
    *("await score", "yield", "yield score", "print(score)", "open('/etc/passwd')", "eval('1')", "__builtins__"),
    *("exp", "exp()", "exp(score, bid)", "max()", "max(*score)", "exp(*score)", "exp(**score)", "score(1)"),
    *(
        "round(score)",
        "sum(score)",
        "exp(exp)",
        "exp(1)(2)",
        "1 + 1",
        "bid / (bid - bid)",
        "sqrt(-bid)",
        "log(bid - bid)",
    ),
    *("(-bid) ** 0.5", "exp(exp(bid * 9))", "bid ** 999999", "1e999 * bid", "#", " ", "import os", "score!", "$score"),
    *(
        "\uff53core2",
        "sc\u00f6re",
        "bid.__class__.__base__",
        "score if score else",
        "0x * score",
        "score\\",
        "'",
        '"' * 3,
    ),
)
"""Not formulas, or not of numbers."""

NAMES = (
    "__class__",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a.b",
    "candidates ",
    "USER",
    "bids",
    "é",
    "a\tb",
    "%s",
    "x" * 300,
)
"""Of nothing."""

ANY_FORM: dict[str, tuple[dict[str, Any], str]] = {
    "user field": ({"user": {"cty": "x"}}, "user.cty"),
    "user field, empty": ({"user": {"": "x"}}, "user."),
    "context field": ({"context": {"hour": 3}}, "context.hour"),
    "history field": ({"history": [{"itm": 1}]}, "history.itm"),
    "unknown candidate": ({"candidates": ["a", "item-0001"], "columns": {}, "unknown": "error"}, "candidates"),
    "many candidates": ({"candidates": ["x"] * 10_001, "columns": {}}, "candidates"),
    "long history": ({"history": ["x"] * 10_001}, "history"),
    "many columns": ({"columns": {f"c{number}": [1.0] * 4 for number in range(33)}}, "columns"),
    "short column": ({"columns": {"bid": [1.0, 2.0]}}, "columns.bid"),
    "long column": ({"columns": {"bid": [1.0] * 5}}, "columns.bid"),
    "empty column": ({"columns": {"bid": []}}, "columns.bid"),
    "second column": ({"columns": {"bid": [1.0] * 4, "other": [1.0]}}, "columns.other"),
    "column score": ({"columns": {"score": [1.0] * 4}}, "columns.score"),
    "column probability": ({"columns": {"probability": [1.0] * 4}}, "columns.probability"),
    "pair field": ({"columns": {}, "pairs": {"gap": [1.0] * 4}}, "pairs.gap"),
    "short pair field": ({"columns": {}, "pairs": {"gap": [1.0]}}, "pairs.gap"),
    "many pair fields": ({"columns": {}, "pairs": {f"p{number}": [1.0] * 4 for number in range(33)}}, "pairs"),
    "k zero": ({"k": 0}, "k"),
    "k negative": ({"k": -1}, "k"),
    "k text": ({"k": "3"}, "k"),
    "k fraction": ({"k": 2.5}, "k"),
    "k true": ({"k": True}, "k"),
    "k list": ({"k": [3]}, "k"),
    "unknown maybe": ({"unknown": "maybe"}, "unknown"),
    "unknown number": ({"unknown": 3}, "unknown"),
    "unknown null": ({"unknown": None}, "unknown"),
    "deadline zero": ({"deadline_ms": 0}, "deadline_ms"),
    "deadline negative": ({"deadline_ms": -5}, "deadline_ms"),
    "deadline text": ({"deadline_ms": "soon"}, "deadline_ms"),
    "another field": ({"limit": 3}, "limit"),
    "field in capitals": ({"K": 3}, "K"),
    "ranking number": ({"ranking": 5}, "ranking"),
    "ranking null": ({"ranking": None}, "ranking"),
    "ranking empty": ({"ranking": ""}, "ranking"),
    "ranking column": ({"ranking": "price"}, "price"),
    "ranking ecpm": ({"ranking": "ecpm", "columns": {}}, "bid"),
    "ranking syntax": ({"ranking": "score +"}, "ranking"),
    "ranking if": ({"ranking": "score if"}, "ranking"),
    "ranking chain": ({"ranking": "0 < score < 1"}, "ranking"),
    "ranking text": ({"ranking": "'a'"}, "ranking"),
    "ranking call": ({"ranking": "__import__('os')"}, "ranking"),
    "ranking attribute": ({"ranking": "score.__class__"}, "ranking"),
    "ranking lambda": ({"ranking": "(lambda: 1)()"}, "ranking"),
    "ranking arguments": ({"ranking": "min(score)"}, "ranking"),
    "ranking keyword": ({"ranking": "exp(x=score)"}, "ranking"),
    "ranking constant": ({"ranking": "1"}, "ranking"),
    "ranking huge": ({"ranking": "score * " + "9" * 400}, "ranking"),
    "ranking long": ({"ranking": "score" + " + score" * 100}, "ranking"),
    "ranking place": ({"ranking": "score[0]"}, "ranking"),
    "ranking assignment": ({"ranking": "(x := score)"}, "ranking"),
    "ranking null byte": ({"ranking": "score\0"}, "ranking"),
    "ranking by zero": ({"ranking": "bid / 0"}, "ranking"),
    "ranking of a negative": ({"ranking": "log(-bid)"}, "ranking"),
    "ranking too large": ({"ranking": "exp(bid * 1000)"}, "ranking"),
    "bid too large": ({"columns": {"bid": [1e308] * 4}, "ranking": "bid * bid"}, "ranking"),
    **{f"ranking {formula!r}": ({"ranking": formula}, "ranking") for formula in FORMULAS},
    **{f"another field {name!r}": ({name: 3}, " ".join(f"{name}: unknown".split())) for name in NAMES},
    **{f"user field {name!r}": ({"user": {name: "x"}}, f"user.{' '.join(name.split())}") for name in NAMES},
    **{f"k {k}": ({"k": k}, "k: ") for k in (-(2**31), -(2**63), 0.0, 1.0, 1e300, False, "", "ten")},
    **{f"deadline {ms!r}": ({"deadline_ms": ms}, "deadline_ms: ") for ms in (-1e300, -0.0, True, False, "", "5")},
    **{f"unknown {word!r}": ({"unknown": word}, "unknown: ") for word in ("", "DROP", "drop ", "ignore", True, 1.5)},
}
"""Changes of ``GOOD`` that every form of request can have."""

KINDS: dict[str, tuple[type, ...]] = {
    "candidates": (list,),
    "user": (dict,),
    "context": (dict,),
    "history": (list,),
    "columns": (dict,),
    "pairs": (dict,),
    "k": (int, type(None)),
    "ranking": (str,),
    "unknown": (),
    "deadline_ms": (int, float, type(None)),
}
"""What a field may be."""
VALUES: tuple[Any, ...] = (None, True, 3, 1.5, "x", [], {})
NO_IDS: tuple[Any, ...] = (None, True, 1.5, -0.5, [], ["x"], {})
NO_VALUES: tuple[Any, ...] = ([], ["x"], [[]], {}, {"a": 1})

NATIVE: dict[str, tuple[Any, str]] = {
    "nothing": (b"", "body"),
    "a brace": (b"{", "body"),
    "a list": ([], "body"),
    "null": (b"null", "body"),
    "a number": (1, "body"),
    "a text": ("x", "body"),
    "single quotes": (b"{'candidates': []}", "body"),
    "a comment": (b'{"candidates": []} // all', "body"),
    "two objects": (b'{"candidates": []}{}', "body"),
    "a byte order mark": (b'\xef\xbb\xbf{"candidates": []}', "body"),
    "latin-1": (b'{"candidates": ["\xe9"]}', "body"),
    "utf-16": ('{"candidates": []}'.encode("utf-16"), "body"),
    "half a surrogate": (b'{"candidates": ["\\ud800"]}', "body"),
    "a control character": (b'{"candidates": ["\x01"]}', "body"),
    "deep lists": (b'{"candidates": [], "user": {"city": ' + b"[" * 50_000, "body"),
    "deep objects": (b'{"candidates": [], "user": ' + b'{"a":' * 50_000, "body"),
    "an empty object": ({}, "candidates"),
    "null candidates": ({"candidates": None}, "candidates"),
    "a text for candidates": ({"candidates": "item-0001"}, "candidates"),
    "an object for candidates": ({"candidates": {"item-0001": 1}}, "candidates"),
    "a null candidate": ({"candidates": ["x", None]}, "candidates[1]"),
    "a fraction for a candidate": ({"candidates": [1.5]}, "candidates[0]"),
    "true for a candidate": ({"candidates": ["x", True]}, "candidates[1]"),
    "a list for a candidate": ({"candidates": [["x"]]}, "candidates[0]"),
    "a list for user": ({**GOOD, "user": []}, "user"),
    "null for user": ({**GOOD, "user": None}, "user"),
    "an object for city": ({**GOOD, "user": {"city": {}}}, "user.city"),
    "a list for city": ({**GOOD, "user": {"city": ["x"]}}, "user.city"),
    "a number that is none": (b'{"candidates": [], "user": {"user_id": NaN}}', "body"),
    "an infinite number": (b'{"candidates": [], "user": {"user_id": 1e999}}', "user"),
    "a text for context": ({**GOOD, "context": "x"}, "context"),
    "a text for history": ({**GOOD, "history": "x"}, "history"),
    "an object for history": ({**GOOD, "history": {"item_id": "x"}}, "history"),
    "a null in history": ({**GOOD, "history": [None]}, "history[0]"),
    "a fraction in history": ({**GOOD, "history": ["x", 1.5]}, "history[1]"),
    "ids and records": ({**GOOD, "history": ["x", {"item_id": "x"}]}, "history"),
    "a list in a record": ({**GOOD, "history": [{"item_id": ["x"]}]}, "history.item_id"),
    "a list for columns": ({**GOOD, "columns": [1, 2]}, "columns"),
    "null for a column": ({**GOOD, "columns": {"bid": None}}, "columns.bid"),
    "a number for a column": ({**GOOD, "columns": {"bid": 1}}, "columns.bid"),
    "a text in a column": ({**GOOD, "columns": {"a": [1, 1, 1, 1], "bid": [1, 1, "1", 1]}}, "columns.bid[2]"),
    "true in a column": ({**GOOD, "columns": {"bid": [True, 1, 1, 1]}}, "columns.bid[0]"),
    "a list in a column": ({**GOOD, "columns": {"bid": [[1, 1, 1, 1]]}}, "columns.bid[0]"),
    "a number for a pair field": ({**GOOD, "pairs": {"a": [1], "gap": 1}}, "pairs.gap"),
    "a list for pairs": ({**GOOD, "pairs": [1, 2]}, "pairs"),
    "infinity in a column": (b'{"candidates": [1], "columns": {"bid": [1e999]}}', "columns"),
    **{
        f"{value!r} for {field}": ({**GOOD, field: value}, field)
        for field, right in KINDS.items()
        for value in VALUES
        if type(value) not in right
    },
    **{f"{value!r} as a candidate": ({"candidates": ["x", value]}, "candidates[1]") for value in NO_IDS},
    **{f"{value!r} in history": ({**GOOD, "history": ["x", value]}, "history[1]") for value in NO_IDS[:-1]},
    **{
        f"{value!r} for a history field": ({**GOOD, "history": [{"category": value}]}, "history.category")
        for value in NO_VALUES
    },
    **{f"{value!r} for a user field": ({**GOOD, "user": {"city": value}}, "user.city") for value in NO_VALUES},
    **{f"{value!r} for a column": ({**GOOD, "columns": {"bid": value}}, "columns.bid") for value in (*VALUES[1:5], {})},
    **{
        f"{value!r} in a column": ({**GOOD, "columns": {"bid": [1, value, 1, 1]}}, "columns.bid[1]")
        for value in (*VALUES[:2], "", "1", *VALUES[5:])
    },
    **{f"{value!r} for a pair field": ({**GOOD, "pairs": {"gap": value}}, "pairs.gap") for value in (*VALUES[:5], {})},
    **{
        f"text {number}": (text.encode(), "body")
        for number, text in enumerate(
            (
                *(" ", "\n", "}", "]", "[", '"', "nul", "True", "NaN", "-", "1e", "01", "+1", ".5", "0x1", "undefined"),
                *(
                    '{"candidates": [1}',
                    '{"candidates": [1]',
                    '{"candidates" [1]}',
                    '{"candidates": [1],}',
                ),
                *(
                    "{candidates: []}",
                    '{"candidates": [1] "k": 1}',
                    '{"candidates": [\\x]}',
                    '{"candidates": ["\\x41"]}',
                ),
                *('{"candidates": ["a\nb"]}', '{"candidates": ["a]}', '{"candidates": [Infinity]}', '{"k": -}', "<a/>"),
                *("candidates=1&k=3", "\0", "[]{}", '{"candidates": [1]}\0', "/* */ {}", '{"k": 1e}'),
            )
        )
    },
}
"""Bodies of /v1/rank."""

BATCH: dict[str, tuple[Any, str]] = {
    "a single request": (GOOD, "candidates"),
    "no requests": ({}, "requests"),
    "null": ({"requests": None}, "requests"),
    "an empty list": ({"requests": []}, "requests"),
    "an object": ({"requests": GOOD}, "requests"),
    "a null among them": ({"requests": [GOOD, None]}, "requests[1]"),
    "a wrong one among them": ({"requests": [GOOD, {**GOOD, "k": 0}]}, "requests[1].k"),
    "an unknown field": ({"requests": [GOOD, {**GOOD, "rank": 0}]}, "requests[1].rank"),
    "an unknown user field": ({"requests": [GOOD, {**GOOD, "user": {"a": 1}}]}, "requests[1].user.a"),
    "a column": ({"requests": [GOOD, {**GOOD, "columns": {"bid": ["x"]}}]}, "requests[1].columns.bid[0]"),
    "a deadline of its own": ({"requests": [{**GOOD, "deadline_ms": 5}]}, "requests[0].deadline_ms"),
    "too many": ({"requests": [GOOD] * 65}, "requests"),
    "another field": ({"requests": [GOOD], "k": 5}, "k"),
}
"""Bodies of /v1/rank:batch."""
