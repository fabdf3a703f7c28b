"""Requests and answers of the native protocol: one set of types for decoding, encoding and the OpenAPI page."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from prerank.service.refusal import RefusedError
from prerank.service.settings import Limits
from prerank.serving.preranker import Ranked
from prerank.serving.request import Id, Request

M = TypeVar("M")
Raw = dict[str, Any]
Milliseconds = Annotated[float, Meta(gt=0)]


class RankRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Candidates to order for one user."""

    candidates: Annotated[list[int | str], Meta(description="item ids; of a repeated one the first counts")]
    user: Annotated[Raw, Meta(description="raw values of user fields")] = {}
    context: Annotated[Raw, Meta(description="raw values of context fields")] = {}
    history: Annotated[
        list[int | str | Raw], Meta(description="past items, oldest first: ids, or objects of history fields")
    ] = []
    columns: Annotated[
        dict[str, list[float]], Meta(description="numbers for the ranking function, one a candidate, such as bid")
    ] = {}
    pairs: Annotated[dict[str, list[Any]], Meta(description="raw values of pair fields, one a candidate")] = {}
    k: Annotated[int, Meta(ge=1, description="how many to return at most; all if absent")] | None = None
    ranking: Annotated[str, Meta(description="score, probability, ecpm, or a formula of columns")] = "score"
    unknown: Annotated[
        Literal["drop", "error"], Meta(description="what to do with candidates that are not in the catalogue")
    ] = "drop"
    deadline_ms: Annotated[Milliseconds, Meta(description="the answer is worthless after this time")] | None = None
    soft_deadline_ms: (
        Annotated[Milliseconds, Meta(description="the best of what was scored by then is the answer")] | None
    ) = None

    def asked(self) -> Request:
        """What the ranker is asked."""
        return Request(
            user=self.user,
            candidates=self.candidates,
            k=self.k,
            ranking=self.ranking,
            history=self.history,
            columns=self.columns,
            context=self.context,
            unknown=self.unknown,
            pairs=self.pairs,
        )


class BatchRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Requests that are answered together, by one generation."""

    requests: Annotated[list[RankRequest], Meta(min_length=1)]
    deadline_ms: Annotated[Milliseconds, Meta(description="of all of them; the only deadline of a batch")] | None = None


class RankAnswer(msgspec.Struct, frozen=True):
    """Candidates in their order, best first."""

    ids: list[Id]
    values: Annotated[list[float], Meta(description="what they were ranked by")]
    scores: Annotated[list[float], Meta(description="the model's logits")]
    unknown: Annotated[list[Id], Meta(description="candidates that are not in the catalogue")]
    duplicates: Annotated[int, Meta(description="candidates that named an item again")]
    unknown_history: Annotated[int, Meta(description="past items that the model saw as unknown ones")]
    unscored: Annotated[int, Meta(description="candidates that there was no time for, by the soft deadline")]
    degraded: Annotated[bool, Meta(description="rows came from the local store: the shared one did not give them")]
    coverage: Annotated[float, Meta(description="share of the candidates that were scored")]
    generation: Annotated[str, Meta(description="the published generation that answered")]


class BatchAnswer(msgspec.Struct, frozen=True):
    """An answer for each request, in their order."""

    answers: list[RankAnswer]
    generation: str


class Error(msgspec.Struct, frozen=True):
    """Why there is no answer."""

    error: Annotated[str, Meta(description="the field, what is wrong with it, and what to do")]


class Health(msgspec.Struct, frozen=True):
    """Whether requests are welcome."""

    status: Literal["live", "ready", "starting", "draining"]
    generation: str | None = None


def decode(decoder: msgspec.json.Decoder[M], body: bytes, **nested: type[msgspec.Struct]) -> M:
    """The message in a body.

    Args:
        decoder: of the message.
        body: the bytes.
        nested: what the lists in the message are of, for messages about their fields.

    Raises:
        RefusedError: it is not JSON, or not of the message's form; the field is named.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise bad_request(_explain(str(error), decoder.type, nested, body)) from None
    except msgspec.DecodeError as error:
        raise bad_request(f"body: not valid JSON: {error}") from None
    except UnicodeDecodeError:
        raise bad_request("body: not valid JSON: a text in it is not UTF-8") from None
    except RecursionError:
        raise bad_request("body: is nested too deeply") from None


def check_size(request: Request, limits: Limits, place: str = "") -> None:
    """Refuse a request that asks for more than a single one may.

    Raises:
        RefusedError: it does; the field is named.
    """
    for name in ("candidates", "history", "columns", "pairs"):
        count, allowed = len(getattr(request, name)), getattr(limits, name)
        if count > allowed:
            raise bad_request(f"{place}{name}: has {count} entries, {allowed} are allowed")


def answer_of(ranked: Ranked, candidates: int) -> RankAnswer:
    """What is sent of a ranking of that many candidates."""
    return RankAnswer(
        ids=ranked.ids,
        values=ranked.values.tolist(),
        scores=ranked.scores.tolist(),
        unknown=ranked.unknown,
        duplicates=ranked.duplicates,
        unknown_history=ranked.unknown_history,
        unscored=ranked.unscored,
        degraded=ranked.degraded,
        coverage=coverage(ranked, candidates),
        generation=ranked.generation,
    )


def coverage(ranked: Ranked, candidates: int) -> float:
    """The share of the candidates that were scored, as themselves or as the item that they repeat."""
    return 1 - (len(ranked.unknown) + ranked.unscored) / candidates if candidates else 1.0


def bad_request(message: str) -> RefusedError:
    """A refusal of what the caller has to mend."""
    return RefusedError(HTTPStatus.BAD_REQUEST, message)


def _explain(problem: str, kind: Any, nested: Mapping[str, type[msgspec.Struct]], body: bytes) -> str:
    """msgspec's problem, with the field in front: "Expected `int`, got `str` - at `$.k`" becomes "k: expected …"."""
    what, _, path = problem.replace("`", "").partition(" - at ")
    place = path.removeprefix("$").removeprefix(".")
    for side, of in (("columns", list[float]), ("pairs", list[Any])):
        if f"{side}[...]" in place:
            place = place.replace(f"{side}[...]", f"{side}.{_wrong_name(side, of, place, body)}")
    place = place.replace("[...]", "")
    lead = f"{place}." if place else ""
    unknown = "Object contains unknown field "
    if what.startswith(unknown):
        fields = nested.get(place.partition("[")[0], kind).__struct_fields__
        return f"{lead}{what.removeprefix(unknown)}: unknown field; fields: {', '.join(fields)}"
    if what.startswith("Object missing required field "):
        return f"{lead}{what.rpartition(' ')[2]}: is required"
    return f"{place or 'body'}: {what[:1].lower()}{what[1:]}"


def _wrong_name(side: str, of: Any, place: str, body: bytes) -> str:
    """The name of the column or pair field that is not such a list, which msgspec does not tell."""
    try:
        content: Any = msgspec.json.decode(body)
        if place.startswith("requests["):
            content = content["requests"][int(place.removeprefix("requests[").partition("]")[0])]
        for name, values in content[side].items():
            try:
                msgspec.convert(values, of)
            except msgspec.ValidationError:
                return str(name)
    except (msgspec.DecodeError, RecursionError):  # a number that is out of range
        pass
    return "*"
