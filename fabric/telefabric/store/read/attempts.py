"""Finds the stream of a place that names none: the newest stream of the newest attempt that has the place.

A place is (stream, agent, environment, episode, step): two workers of a run, or two attempts at it, may have the same
episode. Events that an `episode_voided` event covers have no place, unless voided ones are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from telefabric.store.read import query

Ask = Callable[..., Iterable[tuple[Any, ...]]]
"""Runs a statement with the values of a question."""

OF_RUN = "run = (SELECT run FROM runs WHERE run_id = :run_id)"
OF_PLACE = "agent_id = :agent_id AND env_index = :env_index AND episode_index = :episode_index"
OF_EPISODE = f"{OF_RUN} AND {OF_PLACE}"


def not_voided(table: str) -> str:
    """The condition that an event of its stream has not voided this row of an episode."""
    same = " AND ".join(
        f"voids.{column} = {table}.{column}" for column in ("stream", "agent_id", "env_index", "episode_index")
    )
    return f"NOT EXISTS (SELECT 1 FROM voids WHERE {same} AND voids.seq > {table}.seq)"


def streams_at(ask: Ask, table: str, question: query.StepsOf | query.FrameAt) -> list[tuple[Any, ...]]:
    """Number and id of each stream with rows of an episode, the one that is meant first; of one that is named, that."""
    if question.stream_id is not None:
        return list(ask("SELECT stream, stream_id FROM streams WHERE stream_id = :stream_id", question))
    newest_first = "ORDER BY attempt DESC, started_ns DESC, stream DESC"
    streams = list(ask(f"SELECT stream, stream_id FROM streams WHERE {OF_RUN} {newest_first}", question))
    if len(streams) < 2:
        return streams
    counting = "" if question.voided else f" AND {not_voided(table)}"
    having = {row[0] for row in ask(f"SELECT DISTINCT stream FROM {table} WHERE {OF_EPISODE}{counting}", question)}
    return [row for row in streams if row[0] in having]


def voided_below(ask: Ask, stream: int, question: query.StepsOf | query.FrameAt) -> int:
    """The seq of the last void of an episode in its stream: what has a smaller one does not count."""
    if question.voided:
        return 0
    of_stream = "SELECT coalesce(max(seq), 0) FROM voids WHERE stream = :stream"
    ((seq,),) = ask(f"{of_stream} AND {OF_PLACE}", question, stream=stream)
    return int(seq)


def older(ask: Ask, question: query.EpisodesOf | query.Buckets) -> list[bytes]:
    """The streams of all attempts at a run but the newest, the newer first."""
    of_run = f"FROM streams WHERE {OF_RUN}"
    before = f"SELECT stream_id {of_run} AND attempt < (SELECT max(attempt) {of_run})"
    return [bytes(row[0]) for row in ask(f"{before} ORDER BY attempt DESC, stream DESC", question)]


def newest_attempt(table: str, place: Iterable[str], counting: str = "") -> str:
    """The condition that no newer attempt at the run has the same place as this row, in a join with `streams`."""
    same = "".join(f" AND newer.{column} = {table}.{column}" for column in place)
    return (
        f"NOT EXISTS (SELECT 1 FROM streams AS its JOIN {table} AS newer ON newer.stream = its.stream"
        f" WHERE its.run = streams.run AND its.attempt > streams.attempt{same}{counting})"
    )
