"""Queries find their batch size, and go on where memory runs out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lplgrad.acquisition import Slope
from lplgrad.acquisition.entropy import entropy
from lplgrad.machine.devices import lacks_memory
from lplgrad.recipes import Learner
from lplgrad.rounds.needs import gradient_norms, stochastic_logits
from lplgrad.study.settings import BackboneRow
from tests.learners import PLAIN, learner_of, view_of


def test_batches_follow_from_the_images_alone() -> None:
    meta = torch.device("meta")
    assert view_of((32, 32, 1)).batch_size(norms=True) == 32
    assert view_of((224, 224, 1)).batch_size(norms=True) == 4
    assert view_of((32, 32, 1), device=meta).batch_size(norms=True) > 32, "a GPU needs more to be busy"
    assert view_of((224, 224, 1), device=meta).batch_size(norms=True) == 32
    assert view_of((32, 32, 1)).batch_size() == view_of((32, 32, 1), device=meta).batch_size() == 256


def test_a_lack_of_memory_halves_the_batch_and_loses_nothing() -> None:
    learner = learner_of()
    images = torch.randn(50, 1, 8, 8)
    expected = gradient_norms(learner, Slope(entropy), [images], 32)
    asked = []

    def scarce(model: Any, arguments: tuple[torch.Tensor, ...]) -> None:
        asked.append(len(arguments[0]))
        if asked[-1] > 10:
            raise torch.OutOfMemoryError
        if asked[-1] > 7:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    handle = learner.model.register_forward_pre_hook(scarce)
    found = gradient_norms(learner, Slope(entropy), [images[:20], images[20:]], 32)
    assert asked[:4] == [20, 10, 5, 5]
    assert max(asked[2:]) == 5, "what was too much once is not tried again"
    torch.testing.assert_close(found.total, expected.total, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.output, expected.output)
    handle.remove()
    for error in (torch.OutOfMemoryError("small"), RuntimeError("another")):
        handle = learner.model.register_forward_pre_hook(lambda *_, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(RuntimeError, match=str(error)):
            gradient_norms(learner, Slope(entropy), [images], 32)
        handle.remove()


class TestStochasticLogits:
    """Logits of passes with dropout, which is drawn from a seed."""

    @pytest.fixture
    def learner(self) -> Learner:
        return learner_of(PLAIN, BackboneRow.model_validate({"name": "small_resnet", "width": 4, "dropout": 0.5}))

    def test_passes_are_those_of_dropout_alone(self, learner: Learner) -> None:
        images = torch.randn(10, 1, 8, 8)
        before = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
        found = stochastic_logits(learner, lambda: images.split(4), 3, seed=5)
        assert found.shape == (10, 3, 4)
        assert found.dtype == torch.float32
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(5)
            features = [learner.model.outputs(part).features for part in images.split(4)]
            weight, bias = learner.model.get_parameter("fc.weight"), learner.model.get_parameter("fc.bias")
            for number in range(3):
                expected = torch.cat([torch.nn.functional.dropout(one, 0.5) @ weight.T + bias for one in features])
                torch.testing.assert_close(found[:, number], expected)
        after = learner.model.state_dict()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items()), "batch norm is in eval mode"

    def test_the_seed_alone_draws(self, learner: Learner) -> None:
        images = [torch.randn(10, 1, 8, 8)]
        torch.manual_seed(1)
        before = torch.random.get_rng_state()
        one = stochastic_logits(learner, lambda: images, 2, seed=5)
        assert torch.equal(torch.random.get_rng_state(), before)
        torch.manual_seed(2)
        assert torch.equal(stochastic_logits(learner, lambda: images, 2, seed=5), one)
        assert not torch.equal(stochastic_logits(learner, lambda: images, 2, seed=6), one)
        assert not torch.equal(one[:, 0], one[:, 1])

    def test_no_network_is_left_in_train_mode(self, learner: Learner) -> None:
        learner.model.train()

        def failing() -> Iterator[torch.Tensor]:
            raise RuntimeError("no images")
            yield

        with pytest.raises(RuntimeError, match="no images"):
            stochastic_logits(learner, failing, 2, seed=5)
        assert not any(layer.training for layer in learner.model.modules())


@pytest.mark.parametrize(
    "words",
    [
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.10 GiB",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
        "CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY",
        "CUDA error: cudaErrorMemoryAllocation",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
        "CUDA error: CUSPARSE_STATUS_ALLOC_FAILED when calling `cusparseCreate(handle)`",
        "cuFFT error: CUFFT_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
        "HIP out of memory. Tried to allocate 2.00 GiB",
        "HIP error: hipErrorOutOfMemory",
        "CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`",
        "rocblas_status_memory_error",
        "miopenStatusAllocFailed",
        "MPS backend out of memory (MPS allocated: 17.00 GB, other allocations: 1.00 GB, max allowed: 18.13 GB)",
        "XPU out of memory. Tried to allocate 1.00 GiB",
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000000 bytes. Error code 12",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 4000000000000 bytes.",
        "unable to mmap 400 bytes from file </torch_12_34_0>: Cannot allocate memory (12)",
        "std::bad_alloc",
    ],
)
def test_errors_of_a_lack_of_memory(words: str) -> None:
    assert lacks_memory(RuntimeError(words))
    assert lacks_memory(torch.OutOfMemoryError("Allocation on device"))


@pytest.mark.parametrize(
    "words",
    [
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input.",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: misaligned address",
        "CUDA error: unspecified launch failure",
        "CUDA error: too many resources requested for launch",
        "Unable to find a valid cuDNN algorithm to run convolution",
        "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
        "unsupported memory format option",
        "could not create a primitive",
    ],
)
def test_errors_of_another_kind(words: str) -> None:
    assert not lacks_memory(RuntimeError(words))


def test_the_example_of_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "gradient-norms.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    model, images, labels, norms = (names[name] for name in ("model", "images", "labels", "norms"))
    loss = torch.nn.functional.cross_entropy(model(images[:1]), labels[:1])
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert float(norms.total[0]) == pytest.approx(float(torch.stack([g.norm() for g in gradients]).norm()), rel=1e-5)
    assert float(norms.sum[0]) == pytest.approx(sum(float(g.norm()) for g in gradients), rel=1e-5)
