"""VAAL (Sinha et al. 2019): the candidates that a discriminator takes for unlabelled images with most certainty.

A variational autoencoder and a discriminator of its means play against each other. They are trained in the query, on
labelled and unlabelled images without their labels. The model of the round takes no part.

Where the official code departs from the paper, this follows the paper. The code sums the divergence over a batch and
averages the error over pixels, which weighs the divergence 196,608 times too high on 32x32 images, so that the means
collapse. Here it is that of an evidence lower bound, per image. The code scores in train mode. Here it is eval mode.

Cost: a training of two networks in each query (100 epochs of the pool by default), and one forward pass of the encoder
and the discriminator per candidate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from lplgrad import recipes
from lplgrad.acquisition import Acquisition, Candidates
from lplgrad.machine.log import say
from lplgrad.machine.registry import lazy
from lplgrad.recipes import Draw, Measured
from lplgrad.study.settings import Training
from lplgrad.study.validation import Count, Number, Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F
else:
    torch, F = lazy("torch"), lazy("torch.nn.functional")

LITTLE = 0.01  # nats of divergence an image, below which the means hold nothing


class Options(Settings):
    """How the two networks are trained. The defaults are those of the official code for CIFAR.

    Attributes:
        epochs: of the query's training.
        clock: an epoch passes as many images as the whole ``pool`` has, or as many as have a label (``labeled``).
        batch_size: of labelled and of unlabelled images each.
        learning_rate: of both networks, with Adam.
        latent: the length of the means.
        beta: weight of the divergence.
        adversary: weight of the adversarial loss of the autoencoder.
        vae_steps: of the autoencoder, for each step of the discriminator.
    """

    epochs: Count = 100
    clock: Literal["pool", "labeled"] = "pool"
    batch_size: Count = 128
    learning_rate: Annotated[Number, Field(gt=0)] = 5e-4
    latent: Count = 32
    beta: Annotated[Number, Field(ge=0)] = 1.0
    adversary: Annotated[Number, Field(ge=0)] = 1.0
    vae_steps: Count = 2


class Learner(recipes.Learner):
    """An autoencoder that hides which images are labelled, and a discriminator that finds out."""

    options: Options
    divergence: Tensor

    def build(self) -> dict[str, nn.Module]:
        """Build the two networks."""
        from lplgrad.acquisition._vae import VAE, Discriminator  # imports torch

        latent = self.options.latent
        return {"vae": VAE(self.spec.shape, latent), "discriminator": Discriminator(latent)}

    def steps(self, draw: Draw) -> int:
        """Return the number of steps of an epoch, by the clock."""
        images = draw.labeled_count + (draw.unlabeled_count if self.options.clock == "pool" else 0)
        return -(-images // self.options.batch_size)

    def step(self, draw: Draw) -> Measured:
        """Take steps of the autoencoder, each on new batches, and a step of the discriminator on the last of them."""
        from lplgrad.acquisition._vae import against, divergence  # imports torch

        vae, discriminator = self.networks["vae"], self.networks["discriminator"]
        for _ in range(self.options.vae_steps):
            batches = draw.labeled()[0], draw.unlabeled(self.options.batch_size)
            errors, divergences, hidden = [], [], []
            for images in batches:
                with self.autocast():
                    decoded, mean, log_variance = vae(images)
                    logits = discriminator(mean)
                errors.append(F.mse_loss(decoded.float(), images))
                divergences.append(divergence(mean.float(), log_variance.float()))
                hidden.append(against(logits.float(), 1.0))
            # Up to a factor, the evidence lower bound of a normal distribution with variance one for each number.
            weight = 2 * self.options.beta / images[0].numel()
            error, spread, caught = (torch.stack(parts).sum() for parts in (errors, divergences, hidden))
            loss = error + weight * spread + self.options.adversary * caught
            torch.autograd.backward(loss, inputs=list(vae.parameters()))
            self.optimizers["vae"].step(draw.rate)
        with torch.no_grad(), self.autocast():
            labeled, unlabeled = (vae.encode(images)[0] for images in batches)  # type: ignore[operator]
        with self.autocast():
            known, other = discriminator(labeled), discriminator(unlabeled)
        found = against(known.float(), 1.0) + against(other.float(), 0.0)
        torch.autograd.backward(found)
        self.optimizers["discriminator"].step(draw.rate)
        self.divergence = spread.detach() / 2
        measured = {"loss": loss, "error": error / 2, "divergence": self.divergence, "discriminator loss": found}
        return {name: (value.detach(), 1) for name, value in measured.items()}

    def end(self, draw: Draw) -> None:
        """Warn if the means hold nothing."""
        if hasattr(self, "divergence") and float(self.divergence) < LITTLE:
            say(f"warning: a divergence of {float(self.divergence):.2g} nats an image: this query is close to random")

    def predict(self, inputs: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        """Compute the logit that an image is labelled, shape (B,)."""
        return {"labeled_logit": self.networks["discriminator"](self.networks["vae"].encode(inputs)[0])}  # type: ignore[operator]


def training(options: Options) -> Training:
    """Return the settings of the training: Adam without a schedule."""
    return Training(
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        optimizer="adamw",
        weight_decay=0.0,
        schedule="constant",
    )


def score(candidates: Candidates, options: Options) -> Tensor:
    """Return the logit that a candidate is unlabelled."""
    logits: Tensor = candidates["side:labeled_logit"]
    return -logits


ACQUISITION = Acquisition(
    score,
    needs=lambda options: {"side:labeled_logit": None},
    options=Options,
    side=Learner,
    side_training=training,
    modality="image",
    alone=True,
)
