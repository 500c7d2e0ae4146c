"""Which records an epoch reads: oversampling, balanced batches, sources as folds, and parts of shards."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np
import pandas as pd
import pytest

from melanoma_tf.data import pipeline, sampling
from melanoma_tf.data.dataset import DataError, open_data
from melanoma_tf.data.targets import Targets
from melanoma_tf.devices.multihost import Hosts

pytestmark = pytest.mark.integration
BATCH = 8


@pytest.fixture(scope="module")
def dataset(shards):
    return open_data(str(shards))


@pytest.fixture(scope="module")
def table(dataset):
    return pipeline.read_metadata(dataset.others(0))


def sampler(dataset, **options):
    return sampling.Sampler(dataset.others(0), Targets(), batch_size=BATCH, seed=0, **options)


def read(chosen, epoch=0, skip_steps=0, hosts=pipeline.ALONE):
    """The images, seeds and targets of an epoch's batches."""
    shards, balance = chosen.epoch(epoch)
    settings = {"batch_size": BATCH, "image_size": 32, "seed": 0, "epoch": epoch, "buffer": 64, "hosts": hosts}
    batches = pipeline.train_batches(shards, balance=balance, skip_steps=skip_steps, **settings)
    assert int(batches.cardinality()) == chosen.steps - skip_steps
    found = batches.as_numpy_iterator()
    return [([image.tobytes() for image in features["image"]], features["seed"], target) for features, target in found]


def counts(batches):
    """How often each image is read, by its target, and whether all seeds differ."""
    together = [
        (image, float(label)) for images, _, labels in batches for image, label in zip(images, labels, strict=True)
    ]
    seeds = np.concatenate([seeds for _, seeds, _ in batches])
    assert len(np.unique(seeds)) == len(seeds)  # each time augmented differently
    counted = collections.Counter(together)
    return {target: [number for (_, label), number in counted.items() if label == target] for target in (0.0, 1.0)}


def test_without_a_setting_an_epoch_is_every_record_once(dataset, table):
    plain = sampler(dataset)
    assert plain.epoch(3) == (dataset.others(0), None)
    assert plain.steps == len(table) // BATCH
    assert plain.prior == table["target"].mean()


def test_positives_are_read_as_often_as_asked(dataset, table):
    positives, images = int(table["target"].sum()), len(table)
    chosen = sampler(dataset, oversample=4)
    assert chosen.steps == (images + 3 * positives) // BATCH
    assert chosen.prior == pytest.approx(4 * positives / (images + 3 * positives))
    found = counts(read(chosen))
    left_out = images + 3 * positives - chosen.steps * BATCH
    assert 4 * positives - left_out <= sum(found[1.0]) <= 4 * positives
    assert max(found[1.0]) == 4
    assert set(found[0.0]) == {1}


def test_each_batch_has_the_share_of_positives_that_was_asked_for(dataset, table):
    chosen = sampler(dataset, positive_share=0.25)
    assert chosen.steps == len(table) // BATCH
    assert chosen.prior == 0.25
    batches = read(chosen)
    assert {int(target.sum()) for _, _, target in batches} == {2}
    found = counts(batches)
    assert max(found[1.0]) - min(found[1.0]) <= 1  # each positive as often as any other, up to one
    assert sum(found[1.0]) == 2 * chosen.steps
    assert set(found[0.0]) == {1}
    assert [images for images, _, _ in read(chosen, epoch=1)] != [images for images, _, _ in batches]


@pytest.mark.parametrize("options", [{"oversample": 3}, {"positive_share": 0.5}])
def test_an_epoch_can_be_entered_anywhere(dataset, options):
    whole, rest = read(sampler(dataset, **options), epoch=2), read(sampler(dataset, **options), epoch=2, skip_steps=3)
    for (images, seeds, targets), (same_images, same_seeds, same_targets) in zip(whole[3:], rest, strict=True):
        assert images == same_images
        np.testing.assert_array_equal(seeds, same_seeds)
        np.testing.assert_array_equal(targets, same_targets)


@pytest.mark.parametrize("options", [{"oversample": 3}, {"positive_share": 0.25}])
def test_hosts_share_the_batches_of_one(dataset, options):
    alone = read(sampler(dataset, **options))
    parts = [read(sampler(dataset, **options), hosts=Hosts(index, 2)) for index in (0, 1)]
    for (_, seeds, targets), first, second in zip(alone, *parts, strict=True):
        assert sorted(seeds) == sorted([*first[1], *second[1]])
        assert first[2].sum() + second[2].sum() == targets.sum()
        if "positive_share" in options:
            assert first[2].sum() == second[2].sum()


def test_positives_that_hosts_cannot_share_are_refused(dataset):
    with pytest.raises(DataError, match="is 3 images; expected a multiple of 2 hosts"):
        sampler(dataset, positive_share=0.375, hosts=2)


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_a_batch_of_one_class_is_refused(dataset, share):
    with pytest.raises(DataError, match="expected at least 1 and fewer than all"):
        sampler(dataset, positive_share=share)


def test_a_part_of_a_shard_is_read_in_its_order(dataset):
    shard = dataset.train[0]
    everything = pipeline.read_metadata([shard])
    kept = np.arange(shard.records) % 3 == 1
    part = sampling.select(shard, kept, everything["target"].to_numpy())
    assert (part.records, part.positives) == (kept.sum(), everything["target"][kept].sum())
    found = pipeline.read_metadata([part])
    pd.testing.assert_frame_equal(found, everything[kept].reset_index(drop=True))
    again = sampling.select(part, np.arange(part.records) == 1, found["target"].to_numpy())
    assert pipeline.read_metadata([again])["image_name"].tolist() == [found["image_name"][1]]


def test_sources_become_folds(dataset, monkeypatch):
    """The synthetic records are of one source, so every third is renamed as it is read."""
    read_metadata = pipeline.read_metadata

    def renamed(shards):
        table = read_metadata(shards)
        return table.assign(source=np.where(table["image_name"].str[-1].isin(list("147")), "a", "b"))

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "read_metadata", renamed)
        parts = sampling.by_source(dataset)
    assert sampling.by_source(dataclasses.replace(dataset, train=()), ("a", "b")).train == ()
    assert (parts.folds, parts.sources) == (2, ("a", "b"))
    assert pipeline.count(parts.train) == pipeline.count(dataset.train)
    names = read_metadata(parts.fold(0))["image_name"]
    assert names.str[-1].isin(list("147")).all()
    assert sum(shard.positives for shard in parts.train) == sum(shard.positives for shard in dataset.train)
    with pytest.raises(DataError, match="all records come from isic2020; expected several sources"):
        sampling.by_source(dataset)


def test_records_with_a_soft_label_train_every_fold(dataset):
    names = pipeline.read_metadata(dataset.fold(0))["image_name"][:3].tolist()
    unlabelled = [dataclasses.replace(shard, fold=-1, positives=-1) for shard in dataset.fold(0)]
    parts = sampling.soft_labelled(unlabelled, dict.fromkeys(names, 0.5))
    assert sorted(pipeline.read_metadata(parts)["image_name"]) == sorted(names)
    assert {part.fold for part in parts} == {-1}


def test_positives_are_counted_by_the_rule(dataset):
    everything = pipeline.read_metadata(dataset.train)
    nevi = sampling.relabelled(dataset.train, Targets(frozenset({"nevus"})))
    assert sum(shard.positives for shard in nevi) == (everything["diagnosis"] == "nevus").sum() > 0
    assert sampling.relabelled(dataset.train, Targets()) == dataset.train
