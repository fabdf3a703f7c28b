"""Protocols and leak audits in words."""

from __future__ import annotations

from prerank.data.protocol import Protocol

AUDIT = {
    "history_reaches_other_user": "rows whose history reaches into another user's",
    "history_later_than_event": "rows whose history holds something later than their event",
    "history_as_late_as_event": "rows whose history holds something as late as their event",
    "history_holds_own_event": "rows whose history ends with their own event",
    "negative_that_user_touched": "drawn negatives that the protocol excludes",
    "request_in_two_parts": "requests that occur twice, in one part or in two",
    "train_sees_test_event": "training or validation rows whose history holds a test event",
    "info_train_sees_test_event": "training or validation rows whose history holds a test event: a random split",
    "info_train_later_than_users_test": "training or validation rows later than their user's first test row",
    "info_target_item_in_history": "rows whose positive item is in their history already: a repeated event",
    "info_history_as_late_as_event": "rows whose history holds something as late as their event: a tie",
}


def protocol_in_words(protocol: Protocol) -> str:
    """How events became training and test rows, in sentences."""
    return " ".join(
        sentence
        for sentence in (
            _labels(protocol),
            _dropped(protocol),
            _users(protocol),
            _history(protocol),
            _test(protocol),
            _validation(protocol),
            f"All draws use seed {protocol.seed}.",
        )
        if sentence
    )


def audit_in_words(name: str) -> str:
    """What a count of the leak audit counts."""
    return AUDIT.get(name, name.removeprefix("info_").replace("_", " "))


def _labels(protocol: Protocol) -> str:
    if protocol.labels == "given":
        return "Labels are the source's own."
    if protocol.labels == "rating":
        return f"An event is a positive if its rating is at least {protocol.positive_rating:g}, else a negative."
    which = (
        "Every event of a user but the first" if protocol.targets == "every" else "Each user's last of several events"
    )
    drawn = "one negative" if protocol.negatives == 1 else f"{protocol.negatives} negatives"
    source = {
        "catalogue": "drawn uniformly from the items that the user never touches, before or after",
        "events": "drawn from the events, so in proportion to popularity; only the positive itself is excluded",
    }[protocol.negatives_from]
    if protocol.labels == "stages":
        of_stages = f"{protocol.per_stage} of the same request from each lower stage"
        return f"Every event of the highest stage is a positive and gets {of_stages}, and {drawn}, {source}."
    return f"{which} is a positive and gets {drawn}, {source}."


def _dropped(protocol: Protocol) -> str:
    if not protocol.drop_ratings:
        return ""
    return f"Ratings of {' and '.join(f'{rating:g}' for rating in protocol.drop_ratings)} are left out."


def _users(protocol: Protocol) -> str:
    return {
        "all": "",
        "has_history": "Rows without any earlier behaviour are left out.",
        "has_click": "Users without any positive, in whichever part, are left out.",
    }[protocol.users]


def _history(protocol: Protocol) -> str:
    ties = {
        "file": "keep the order of the source's file",
        "shuffled": "are put in a drawn order",
        "strict": "do not see each other",
    }[protocol.ties]
    return (
        f"A row sees at most {protocol.history} of the user's behaviours before its event, the most recent ones. "
        f"Events of one user at the same time {ties}."
    )


def _test(protocol: Protocol) -> str:
    size = protocol.test_size
    unit = "positive" if protocol.labels == "sampled" else "event"
    return {
        "last": f"The test part is each user's last {unit if size == 1 else f'{size:g} {unit}s'}.",
        "users": f"The test part is all rows of {size * 100:g} % of the users, drawn at random.",
        "rows": f"The test part is {size * 100:g} % of the rows, drawn at random, so training has later rows too.",
        "time": f"The test part is the last {size:g} units of time (seconds, in most sources) of the log.",
    }[protocol.test]


def _validation(protocol: Protocol) -> str:
    share = f"{protocol.validation * 100:g} %"
    chosen = {
        "rows": f"{share} of the remaining requests, drawn at random",
        "users": f"the remaining requests of {share} of their users, drawn at random",
        "time": f"the latest {share} of the remaining requests",
    }[protocol.validation_by]
    return f"Validation, which chooses the epoch to keep, is {chosen}."
