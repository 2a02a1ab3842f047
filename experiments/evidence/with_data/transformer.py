"""Transformer for translation with linear warm-up, then decay by the inverse square root.

python -m experiments.evidence.with_data.transformer --data DIR --method lookahead
python -m experiments.evidence.with_data.transformer --synthetic --steps 5 --tiny

DIR holds train.en, train.de, valid.en and valid.de, already split into subwords: a sentence a line,
the two files of a pair in step. The model is the base model of Vaswani et al. (arXiv:1706.03762)
with one embedding for both languages. Printed is the validation loss: no BLEU is computed here, and
a batch is a number of sentences, not of subwords. `--lr` is a factor on the schedule of Vaswani et
al., 1 there; the scale of the Lookahead paper's {0.02, 0.04, 0.06} is not in its main text.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from torch.optim.lr_scheduler import LambdaLR

from experiments.evidence.with_data.shipped import Training, device, options_of, report

DESCRIPTION = "Transformer for translation, with warm-up and decay."
PAD, START, END, LONGEST = 0, 1, 2, 100
Pair = tuple[Tensor, Tensor]


class Translator(nn.Module):
    """`forward` takes source and target codes, shape (batch, length); returns logits."""

    positions: Tensor

    def __init__(self, vocabulary: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.register_buffer("positions", sinusoids(LONGEST + 2, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, batch_first=True)
        # Nested tensors are a prototype that warns, and only evaluation would use them.
        encoder = nn.TransformerEncoder(
            layer, layers, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.body = nn.Transformer(
            width, heads, layers, layers, 4 * width, custom_encoder=encoder, batch_first=True
        )
        self.dropout = nn.Dropout(0.1)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        later = nn.Transformer.generate_square_subsequent_mask(
            target.shape[1], device=target.device, dtype=torch.bool
        )
        x = self.body(
            self._embedded(source),
            self._embedded(target),
            tgt_mask=later,
            src_key_padding_mask=source == PAD,
            tgt_key_padding_mask=target == PAD,
            memory_key_padding_mask=source == PAD,
        )
        return functional.linear(x, self.embedding.weight)

    def _embedded(self, codes: Tensor) -> Tensor:
        scaled = self.embedding(codes) * math.sqrt(self.embedding.embedding_dim)
        embedded: Tensor = self.dropout(scaled + self.positions[: codes.shape[1]])
        return embedded


def sinusoids(length: int, width: int) -> Tensor:
    """Positions as sines and cosines, section 3.5; shape (length, width)."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


def load(options: argparse.Namespace) -> tuple[list[Pair], list[Pair], int]:
    """Training and validation pairs, and the size of the vocabulary."""
    if options.synthetic:
        size = 100 if options.tiny else 37_000
        return random_pairs(256, size), random_pairs(64, size), size
    if options.data is None:
        raise SystemExit(
            "transformer.py: --data must be the folder of the data, or --synthetic given"
        )
    texts = [
        read(options.data / f"{part}.{language}")
        for part in ("train", "valid")
        for language in ("en", "de")
    ]
    words = sorted({word for text in texts[:2] for line in text for word in line})
    code = {word: number for number, word in enumerate(words, start=END + 2)}
    coded = [[encoded(line, code) for line in text] for text in texts]
    return pairs(*coded[:2]), pairs(*coded[2:]), END + 2 + len(code)


def read(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text(encoding="utf-8").splitlines()]


def encoded(line: list[str], code: dict[str, int]) -> Tensor:
    """Codes with start and end; a subword that training has not seen is END + 1."""
    return torch.tensor([START, *(code.get(word, END + 1) for word in line), END])


def pairs(source: list[Tensor], target: list[Tensor]) -> list[Pair]:
    """Sentences of both languages, without the empty and the very long ones."""
    both = zip(source, target, strict=True)
    return [pair for pair in both if all(2 < len(text) <= LONGEST + 2 for text in pair)]


def random_pairs(n: int, words: int) -> list[Pair]:
    """A target is its source backwards, so that there is something to learn."""
    lengths = torch.randint(5, 30, (n,)).tolist()
    sources = [torch.randint(END + 1, words, (length,)) for length in lengths]
    ends = [torch.tensor([START]), torch.tensor([END])]
    return [(framed(s, *ends), framed(s.flip(0), *ends)) for s in sources]


def framed(codes: Tensor, start: Tensor, end: Tensor) -> Tensor:
    return torch.cat([start, codes, end])


def batches(texts: list[Pair], size: int) -> Iterator[Pair]:
    """Padded batches in random order."""
    for rows in torch.randperm(len(texts)).split(size):
        source, target = zip(*(texts[row] for row in rows), strict=True)
        yield padded(source), padded(target)


def padded(side: tuple[Tensor, ...]) -> Tensor:
    return pad_sequence(list(side), True, PAD).to(device())


def loss_of(model: nn.Module, pair: Pair, smoothing: float) -> Tensor:
    source, target = pair
    logits = model(source, target[:, :-1])
    return functional.cross_entropy(
        logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=PAD, label_smoothing=smoothing
    )


def train_epoch(
    training: Training, model: nn.Module, schedule: LambdaLR, texts: Iterator[Pair]
) -> float:
    """One pass; the loss of the last batch."""
    loss = torch.tensor(math.nan)
    for pair in texts:
        if training.finished:
            break
        training.optimizer.zero_grad()
        loss = loss_of(model, pair, smoothing=0.1)
        loss.backward()
        training.step()
        schedule.step()
    return loss.item()


def validation_loss(training: Training, texts: list[Pair], size: int) -> float:
    """Mean over the subwords, of the weights that would be shipped; no smoothing."""
    total, subwords = 0.0, 0
    with training.shipped() as model:
        for pair in batches(texts, size):
            count = int((pair[1][:, 1:] != PAD).sum())
            total += loss_of(model, pair, smoothing=0.0).item() * count
            subwords += count
    return total / subwords


def factor(width: int, warmup: int) -> Callable[[int], float]:
    """What the rate is multiplied by: section 5.3 of Vaswani et al."""

    def at(step: int) -> float:
        rising = (step + 1) * warmup**-1.5 if warmup else math.inf
        return float(width**-0.5 * min((step + 1) ** -0.5, rising))

    return at


def main(arguments: list[str] | None = None) -> None:
    parser = options_of(DESCRIPTION, lr=1.0, weight_decay=0.0, batch=64, epochs=20)
    parser.add_argument("--warmup", type=int, default=4000, metavar="N", help="steps; 0 for none")
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    train, val, vocabulary = load(options)
    sizes = (16, 2, 1) if options.tiny else (512, 8, 6)
    model = Translator(vocabulary, *sizes).to(device())
    inner = torch.optim.Adam(
        model.parameters(), lr=options.lr, betas=(0.9, 0.98), weight_decay=options.weight_decay
    )
    training = Training(model, inner, options)
    schedule = LambdaLR(training.optimizer, factor(sizes[0], options.warmup))
    for epoch in range(1, options.epochs + 1):
        loss = train_epoch(training, model, schedule, batches(train, options.batch))
        score = validation_loss(training, val, options.batch)
        report(epoch=epoch, step=training.taken, train_loss=loss, val_loss=score)
        if training.finished:
            break


if __name__ == "__main__":
    main()
