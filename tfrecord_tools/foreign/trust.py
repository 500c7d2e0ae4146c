"""What is believed of foreign records, and what contradicts it.

Parsing hides two errors. Two sets of shards may use different codes for one word: `contradictions` and a table of the
images (`with_table`) show it. And some writers stored OpenCV's BGR as RGB: `swapped_channels` compares red with blue,
because skin is redder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

import pandas as pd

from tfrecord_tools import schema
from tfrecord_tools.core.text import counted, verb
from tfrecord_tools.foreign.codes import CODED, Codes
from tfrecord_tools.foreign.dialects import ForeignError
from tfrecord_tools.imaging.channel_order import Channels
from tfrecord_tools.schema import DIAGNOSIS, MISSING

_ENOUGH: Final = 20  # records with a code and a word, below which they may agree by chance
_MOST: Final = 1000  # codes of a key; a larger one is no place in a list of words


def contradictions(frame: pd.DataFrame) -> list[str]:
    """Returns the contradictions that show that values are misread; often none, which proves nothing.

    A record has target 1 exactly if it is a melanoma, and a patient has one sex.
    """
    found = []
    known = frame[(frame["target"] != MISSING) & (frame["diagnosis"] != MISSING)]
    wrong = known[(known["diagnosis"] == DIAGNOSIS.index("melanoma")) != (known["target"] == 1)]
    if len(wrong):
        row = wrong.iloc[0]
        found.append(
            f"{len(wrong)} of {len(known)} records {verb(len(wrong), 'has', 'have')} a diagnosis that contradicts "
            f"{verb(len(wrong), 'its', 'their')} target: {row['image_name']} has target {row['target']} and diagnosis "
            f"{DIAGNOSIS[int(row['diagnosis'])]!r}"
        )
    sexes = frame[(frame["sex"] != MISSING) & (frame["patient"] != "")].groupby("patient")["sex"].nunique()
    if two := int((sexes > 1).sum()):
        who = str(sexes.idxmax())
        who = f"the one with code {who.removeprefix(schema.CODE)}" if who.startswith(schema.CODE) else repr(who)
        found.append(f"{two} of {len(sexes)} patients {verb(two, 'has', 'have')} two sexes, among them {who}")
    return found


# ----------------------------------------------------------------------------------------------------- codes


def meanings(frame: pd.DataFrame, codes: pd.DataFrame, stated: Codes, dialect: str) -> tuple[list[str], list[str]]:
    """Returns what is believed of the values, a text for each key, and the keys with codes that nothing explains.

    Args:
      frame: Rows of the records.
      codes: The writer's code of each row and key of `CODED`, MISSING if none.
      stated: Words that the user gave.
      dialect: Names of the dialects.
    """
    believed, unknown = [], []
    for ours, words in CODED.items():
        coded, known = codes[ours] != MISSING, frame[ours] != MISSING
        if ours in stated:
            order = [f"{code} {word or 'missing'}" for code, word in enumerate(stated[ours])]
            believed.append(f"{ours}: {', '.join(order) or 'read as missing'} (--codes)")
            continue
        if (coded & ~known).any():
            unknown.append(ours)
        if (coded & known).any() and ours == "target":
            share = f"{(frame[ours] == 1).sum()} of {counted(int(known.sum()), 'record')}"
            believed.append(f"{ours}: 0 {words[0]}, 1 {words[1]} in {share} (the name of its key{_confirmed(frame)})")
        elif (coded & known).any():
            believed.append(f"{ours}: the codes of {dialect}")
        elif known.any():
            believed.append(f"{ours}: words")
    return believed, unknown


def _confirmed(frame: pd.DataFrame) -> str:
    """The number of melanomas by their diagnosis, which `contradictions` has compared with the target."""
    number = int(((frame["target"] == 1) & (frame["diagnosis"] == DIAGNOSIS.index("melanoma"))).sum())
    return f"; {counted(number, 'diagnosis agrees', 'diagnoses agree')}" if number else ""


def unexplained(keys: list[str]) -> str:
    """Returns the warning about codes that nothing explains."""
    which = f"{', '.join(keys[:-1])} and {keys[-1]}" if len(keys) > 1 else keys[0]
    example = ",".join(f"{key}=WORD|WORD" for key in keys)
    return (
        f"{which} {verb(len(keys), 'is', 'are')} missing, because nothing states the words of "
        f"{verb(len(keys), 'its', 'their')} codes; give the table of the images with --csv, or the words in the order "
        f"of the codes with --codes '{example}'"
    )


def by_table(codes: pd.DataFrame, chosen: pd.DataFrame, others: pd.DataFrame | None = None) -> str:
    """Returns what a table proves about the codes of the records; "" if nothing.

    Args:
      codes: As of `meanings`.
      chosen: Rows of the table for the same images.
      others: Codes of images that are not in the table; those that it does not show are missing.
    """
    proven = {}
    for ours, words in CODED.items():
        pairs = pd.DataFrame({"code": codes[ours].to_numpy(), "meaning": chosen[ours].to_numpy()})
        pairs = pairs[pairs["code"] != MISSING]
        if ours == "target" or pairs.empty:  # the target is compared as such
            continue
        found = pairs.groupby("code")["meaning"].agg(["nunique", "first"])
        if (found["nunique"] > 1).any():
            code = found["nunique"].idxmax()
            given = pairs["meaning"][pairs["code"] == code].drop_duplicates()
            both = " and ".join(_word(words, each) for each in given.iloc[:2])
            return (
                f"the table disproves the codes: {ours} {code} is {both}, so no code of these records is believed; "
                "files of several writers' tables are built one by one"
            )
        several = found["first"][found["first"] != MISSING].nunique() > 1
        highest = max(codes[ours].max(), MISSING if others is None else others[ours].max())
        if len(pairs) >= _ENOUGH and several and highest < _MOST:
            meant = [int(found["first"].get(code, MISSING)) for code in range(highest + 1)]
            proven[ours] = "|".join(words[each] if each != MISSING else "" for each in meant)
    if not proven:
        return ""
    text = ",".join(f"{ours}={order}" for ours, order in proven.items())
    return f"the table proves the codes of these records: --codes '{text}'"


def _word(words: tuple[str, ...], meaning: int) -> str:
    return "missing" if meaning == MISSING else words[meaning]


# ----------------------------------------------------------------------------------------------------- table


def with_table(frame: pd.DataFrame, codes: pd.DataFrame, table: pd.DataFrame, stated: Codes) -> pd.DataFrame:
    """Returns the rows of a table for the images of foreign shards.

    Args:
      frame: Rows of the shards, which give names and order.
      codes: As of `meanings`.
      table: Rows of `table.read_table`, which give everything else.
      stated: Words of codes that the user gave.

    Raises:
      ForeignError: an image is not in the table, or the table contradicts a target or a stated word.
    """
    rows = table.set_index("image_name", drop=False)
    present = frame["image_name"].isin(rows.index)
    absent = frame["image_name"][~present].tolist()
    if len(absent) == len(frame):
        raise ForeignError(
            f"the table has none of the {counted(len(frame), 'image')} of the TFRecords; their names are like "
            f"{absent[0]!r}, those of the table like {table['image_name'].iloc[0]!r}"
        )
    chosen = rows.loc[frame["image_name"][present].tolist()].reset_index(drop=True)
    if absent:
        proof = by_table(codes[present.to_numpy()], chosen, codes[~present.to_numpy()])
        raise ForeignError(
            f"the table lacks {len(absent)} of the {len(frame)} images of the TFRecords, first {absent[0]!r}; "
            "pass one with all of them" + (f"; {proof}" if proof else "")
        )
    _check_target(frame, codes, chosen)
    for ours in stated.keys() - {"target"}:
        _check_stated(ours, frame, chosen)
    return chosen


def _check_target(frame: pd.DataFrame, codes: pd.DataFrame, chosen: pd.DataFrame) -> None:
    """Compares the targets, except codes of several classes, of which nothing says which is the melanoma."""
    if (codes["target"] > 1).any():
        return
    both = (frame["target"] != MISSING).to_numpy() & (chosen["target"] != MISSING).to_numpy()
    differing = chosen[both & (frame["target"].to_numpy() != chosen["target"].to_numpy())]
    if len(differing):
        raise ForeignError(
            f"{len(differing)} of {int(both.sum())} records {verb(len(differing), 'has', 'have')} another target "
            f"than the table, first {differing['image_name'].iloc[0]!r}: {differing['target'].iloc[0]} in the table"
        )


def _check_stated(ours: str, frame: pd.DataFrame, chosen: pd.DataFrame) -> None:
    both = (frame[ours] != MISSING).to_numpy() & (chosen[ours] != MISSING).to_numpy()
    differing = both & (frame[ours].to_numpy() != chosen[ours].to_numpy())
    if differing.any():
        first = int(differing.argmax())
        given, expected = (_word(CODED[ours], int(each[ours].iloc[first])) for each in (frame, chosen))
        raise ForeignError(
            f"--codes {ours}: the table contradicts it in {int(differing.sum())} of {int(both.sum())} records, first "
            f"{chosen['image_name'].iloc[first]!r}: {given} by --codes, {expected} in the table; leave out --codes"
        )


# -------------------------------------------------------------------------------------------------- channels


def swapped_channels(channels: Mapping[str, Channels], swap_rb: bool) -> str:
    """Returns one warning about all shards whose red and blue look other than assumed; "" if none does.

    Args:
      channels: Of the first images of each shard, by its path.
      swap_rb: Whether they are to be exchanged.
    """
    wrong = {path: each for path, each in channels.items() if each.images and each.swapped != swap_rb}
    if not wrong:
        return ""
    images = sum(each.images for each in wrong.values())
    red, green, blue, bluer = (
        sum(getattr(each, name) * each.images for each in wrong.values()) / images
        for name in ("red", "green", "blue", "bluer")
    )
    first = os.path.basename(next(iter(wrong)))
    which = f"{len(wrong)} of {counted(len(channels), 'file')}, first {first}"
    advice = "leave out" if swap_rb else "give"
    found = Channels(red, green, blue, images, bluer)
    return f"{which}: {found}. Look at a few of the images, and {advice} --swap_rb if it is so"
