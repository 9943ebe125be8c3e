"""Many visitors at once: a full queue, batches, deadlines, those who leave, and the end of the server."""

import dataclasses
import os
import threading
from typing import Any

import numpy as np
import pytest
import torch

from latent_ae.inference import Codec
from latent_ae.inference.timing import Pace
from latent_ae.io.latent_file.latents import from_bytes, to_bytes
from latent_ae.service.errors import BadLatents, Busy, DeadlineExceeded, ServiceError, ShuttingDown, TooLarge
from latent_ae.service.limits import ServiceLimits
from latent_ae.service.service import Service

from .conftest import HeldCodec, closing, in_threads, pixels, png, started, tiny, until

IMAGE = pixels(9, 14)


@pytest.fixture
def held() -> HeldCodec:
    return HeldCodec(tiny(), name="held")


def test_one_request_too_many_is_told_at_once(held: HeldCodec) -> None:
    with closing(Service({"held": held}, limits=ServiceLimits(queue=3)), held) as service:
        held.go_on.clear()
        inside = [started(lambda: service.encode(png(IMAGE))) for _ in range(3)]
        until(lambda: service.stats().inside == 3)
        with pytest.raises(Busy, match="busy with 3 other requests"):
            service.encode(png(IMAGE))
        held.go_on.set()
        for thread, box in inside:
            thread.join(60)
            assert not isinstance(box[0], BaseException)
        service.encode(png(IMAGE))
        assert service.stats().requests == {("encode", "ok"): 4, ("encode", "busy"): 1}
        assert service.stats().seconds["encode"] > 0


def test_images_of_one_size_go_through_the_model_together(held: HeldCodec) -> None:
    with closing(Service({"held": held}), held) as service:
        held.go_on.clear()
        first = started(lambda: service.encode(png(pixels(30, 30))))
        assert held.entered.wait(60)
        images = [pixels(9, 14, seed=seed) for seed in range(3)] + [pixels(12, 16, seed=9), pixels(9, 18)]
        others = [started(lambda image=image: service.encode(png(image))) for image in images]
        until(lambda: service.stats().queued == 5)
        held.go_on.set()
        for thread, _ in (first, *others):
            thread.join(60)
        # 9x14 and 12x16 are both padded to 12x16
        assert sorted(held.calls) == [("encode", 1), ("encode", 1), ("encode", 4)]
        for image, (_, box) in zip(images, others, strict=True):
            assert torch.allclose(box[0].latents.tensor, held.encode([image], tick=None)[0].tensor, atol=1e-5)
        assert (service.stats().batches, service.stats().batched) == (3, 6)


def test_one_bad_image_of_a_batch_fails_alone(held: HeldCodec) -> None:
    with closing(Service({"held": held}), held) as service:
        file = service.encode(png(IMAGE)).file
        bad = dataclasses.replace(from_bytes(file), tensor=torch.full((1, 2, 3, 4), 3e38))
        held.entered.clear()
        held.go_on.clear()
        first = started(lambda: service.encode(png(IMAGE)))
        assert held.entered.wait(60)
        waiting = [started(lambda data=data: service.decode(data)) for data in (file, to_bytes(bad), file)]
        until(lambda: service.stats().queued == 3)
        held.go_on.set()
        for thread, _ in (first, *waiting):
            thread.join(60)
        one, wrong, other = (box[0] for _, box in waiting)
        assert isinstance(wrong, BadLatents)
        for answer in (one, other):
            assert np.array_equal(answer.images[0], held.reconstruct([IMAGE], tick=lambda share: None)[0])
        assert ("decode", 3) in held.calls


def test_every_visitor_is_told_the_seam_of_his_own_image() -> None:
    """Decoded in one batch: the worst seam of the batch was told to all."""
    held = HeldCodec(tiny(), name="held", tile=16)
    flat = np.full((40, 30, 3), 128, np.uint8)
    with closing(Service({"held": held}), held) as service:
        files = [service.encode(png(image)).file for image in (pixels(40, 30), flat, flat[:16, :16])]
        alone = [service.decode(file) for file in files]
        held.entered.clear()
        held.go_on.clear()
        first = started(lambda: service.decode(files[0]))
        assert held.entered.wait(60)
        waiting = [started(lambda file=file: service.decode(file)) for file in files]
        until(lambda: service.stats().queued == 3)
        held.go_on.set()
        for thread, _ in (first, *waiting):
            thread.join(60)
        together = [box[0] for _, box in waiting]
    assert ("decode", 2) in held.calls
    assert [each.seam_db for each in together] == [each.seam_db for each in alone]
    assert [each.decoding.tiles for each in together] == [9, 9, 1]
    noisy, smooth, whole = (each.seam_db[0] for each in together)
    assert noisy is not None
    assert smooth is not None
    assert noisy != smooth
    assert whole is None


def test_a_request_ends_at_its_deadline_and_the_next_is_answered(held: HeldCodec) -> None:
    with closing(Service({"held": held}, limits=ServiceLimits(deadline_seconds=3)), held) as service:
        service.encode(png(IMAGE))
        held.entered.clear()
        held.go_on.clear()
        running = started(lambda: service.encode(png(IMAGE)))
        assert held.entered.wait(60)
        waiting = started(lambda: service.encode(png(pixels(30, 30))))
        for thread, box in (running, waiting):
            thread.join(60)
            assert isinstance(box[0], DeadlineExceeded)
        until(lambda: service.stats().running == 0)
        held.go_on.set()
        assert service.encode(png(IMAGE)).latents.count == 1


@pytest.mark.parametrize("endpoint", ["encode", "reconstruct", "inspect"])
def test_a_visitor_who_leaves_ends_the_work(held: HeldCodec, endpoint: str) -> None:
    def leave(share: float) -> None:
        if held.entered.is_set():
            raise InterruptedError

    with closing(Service({"held": held}), held) as service:
        held.go_on.clear()
        with pytest.raises(InterruptedError):
            getattr(service, endpoint)(png(IMAGE), tick=leave)
        until(lambda: service.stats().running == 0)
        assert service.stats().requests == {(endpoint, "cancelled"): 1}


def test_closing_answers_everybody(held: HeldCodec) -> None:
    service = Service({"held": held})
    held.go_on.clear()
    inside = [started(lambda size=size: service.encode(png(pixels(size, 9)))) for size in (9, 20, 30)]
    until(lambda: service.stats().inside == 3 and held.entered.is_set())
    service.close()  # although the model is held
    for thread, box in inside:
        thread.join(60)
        assert isinstance(box[0], ShuttingDown)
    with pytest.raises(ShuttingDown):
        service.encode(png(IMAGE))
    assert service.stats().requests == {("encode", "shutting_down"): 4}


def test_a_defect_is_counted_as_one(held: HeldCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Service({"held": held}), held) as service:
        monkeypatch.setattr(held, "encode", lambda *_, **__: [])
        with pytest.raises(ValueError, match="zip") as caught:
            service.encode(png(IMAGE))
        assert not isinstance(caught.value, ServiceError)
        assert service.stats().requests == {("encode", "internal"): 1}


def test_full_memory_is_a_sentence(held: HeldCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried ...")

    with closing(Service({"held": held}), held) as service:
        monkeypatch.setattr(held, "encode", full)
        with pytest.raises(TooLarge, match="memory ran out"):
            service.encode(png(IMAGE))


@pytest.mark.slow
def test_under_stress_every_request_gets_its_own_right_answer(kl: Codec, vq: Codec) -> None:
    sizes = [(9, 14), (12, 16), (20, 8)]
    images = [pixels(*sizes[i % 3], seed=i) for i in range(12)]
    expected = {
        (name, i): codec.reconstruct([image])[0]
        for name, codec in (("kl", kl), ("vq", vq))
        for i, image in enumerate(images)
    }
    drawn = {i: kl.encode([image], seed=i)[0].tensor for i, image in enumerate(images)}

    def visitor(number: int) -> None:
        for step in range(4):
            i = (5 * number + step) % len(images)
            name = ("kl", "vq")[(number + step) % 2]
            found = service.reconstruct(png(images[i]), model=name)
            assert np.array_equal(found.original, images[i])
            # A batch may round otherwise than an image alone: by a level.
            assert np.abs(found.reconstructed.astype(int) - expected[name, i]).max() <= 1
            again = service.decode(found.encoded.file).images[0]
            assert np.abs(again.astype(int) - found.reconstructed).max() <= 1
            assert torch.allclose(service.encode(png(images[i]), seed=i).latents.tensor, drawn[i], atol=1e-5)

    with closing(Service({"kl": kl, "vq": vq}, limits=ServiceLimits(queue=12))) as service:
        assert in_threads([lambda number=number: visitor(number) for number in range(12)]) == [None] * 12
        stats = service.stats()
        assert sum(stats.requests.values()) == 12 * 4 * 3
        assert {outcome for _, outcome in stats.requests} == {"ok"}
        assert stats.batched == 12 * 4 * 4
        assert stats.batches < stats.batched
        assert (stats.inside, stats.queued, stats.running) == (0, 0, 0)


def test_nobody_waits_for_anothers_search_for_baselines(kl: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    with Service({"kl": kl}) as service:
        made = service.reconstruct(png(pixels(8, 8)))
        go_on, searching = threading.Event(), threading.Semaphore(0)

        def endless(*_: Any) -> tuple[()]:
            searching.release()
            go_on.wait(60)
            return ()

        monkeypatch.setattr("latent_ae.service.measures.baselines", endless)
        count = os.cpu_count() or 1
        others = [started(lambda: service.baselines(made))[0] for _ in range(max(2, count))]
        for _ in others:
            assert searching.acquire(timeout=60)  # each has a slot, and there is none left
        assert service.reconstruct(png(pixels(8, 8))).metrics == made.metrics
        go_on.set()
        for other in others:
            other.join(60)


def test_what_cannot_be_done_in_time_is_refused_at_once(held: HeldCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "paces", (Pace(1.0), Pace(1.0)))  # a slow machine, whichever this is
    with closing(Service({"held": held}, limits=ServiceLimits(deadline_seconds=60)), held) as service:
        small, large = png(pixels(8, 8)), png(pixels(64, 64))
        with pytest.raises(TooLarge, match=r"would take about 68 minutes here, and a request may take 60 seconds: try"):
            service.encode(large)
        assert held.calls == []
        assert service.encode(small).latents.count == 1  # its 64 seconds are an estimate
        # The best speed counts: an estimate that was too slow is forgotten.
        assert service.encode(large).latents.count == 1
