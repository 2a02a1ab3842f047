"""LSTM language model on Penn Treebank, in the size of Merity et al. (arXiv:1708.02182).

python -m experiments.evidence.with_data.penn_treebank --data DIR --inner adam --method lookahead
python -m experiments.evidence.with_data.penn_treebank --synthetic --steps 5 --tiny

DIR holds ptb.train.txt, ptb.valid.txt and ptb.test.txt, a sentence a line, words separated by
blanks. Dropout is the same for all words of a window, and the embedding is tied to the output.
Their weight dropping, random windows and fine-tuning are not here, so perplexities are not those
of the paper: compare methods within this script. The rate is halved when the validation loss has
not fallen for 15 epochs.
"""

import argparse
import math
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.evidence.with_data.shipped import Training, device, options_of, report

DESCRIPTION = "LSTM language model on Penn Treebank."
WINDOW, VOCABULARY, PATIENCE, CLIP = 70, 10_000, 15, 0.25
State = tuple[Tensor, Tensor]


class LockedDropout(nn.Module):
    """Dropout with one mask for all words of a window (Gal and Ghahramani, arXiv:1512.05287)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return x * functional.dropout(torch.ones_like(x[:1]), self.rate, self.training)


class LanguageModel(nn.Module):
    """Embedding, LSTM layers, and the embedding again.

    `forward` takes words, shape (window, batch), and the state of each layer; it returns logits,
    shape (window, batch, vocabulary), and the states.
    """

    def __init__(self, vocabulary: int, width: int, hidden: int, layers: int = 3) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        sizes = [width, *[hidden] * (layers - 1), width]
        self.layers = nn.ModuleList(nn.LSTM(size, following) for size, following in pairwise(sizes))
        rates = [0.4, *[0.25] * (layers - 1), 0.4]
        self.dropouts = nn.ModuleList(LockedDropout(rate) for rate in rates)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, words: Tensor, states: list[State | None]) -> tuple[Tensor, list[State]]:
        x, after = self.dropouts[0](self.embedding(words)), []
        for layer, dropout, state in zip(self.layers, self.dropouts[1:], states, strict=True):
            x, state = layer(x, state)
            x = dropout(x)
            after.append(state)
        return functional.linear(x, self.embedding.weight, self.bias), after


def load(options: argparse.Namespace) -> tuple[list[Tensor], int]:
    """Train, validation and test text as codes of words, and the size of the vocabulary."""
    if options.synthetic:
        words = 200 if options.tiny else VOCABULARY
        return [torch.randint(words, (n,)) for n in (20_000, 4_000, 4_000)], words
    if options.data is None:
        raise SystemExit(
            "penn_treebank.py: --data must be the folder of the data, or --synthetic given"
        )
    texts = [read(options.data / f"ptb.{part}.txt") for part in ("train", "valid", "test")]
    code = {word: number for number, word in enumerate(sorted(set().union(*texts)))}
    return [torch.tensor([code[word] for word in text]) for text in texts], len(code)


def read(path: Path) -> list[str]:
    """Words, with <eos> at the end of each line."""
    return path.read_text(encoding="utf-8").replace("\n", " <eos> ").split()


def columns(codes: Tensor, batch: int) -> Tensor:
    """The text cut into `batch` stretches, one a column; shape (words, batch)."""
    length = len(codes) // batch
    return codes[: length * batch].reshape(batch, length).T.contiguous().to(device())


def windows(text: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Words and the words that follow them."""
    starts = range(0, len(text) - 1, WINDOW)
    ends = [min(start + WINDOW, len(text) - 1) for start in starts]
    return [(text[a:b], text[a + 1 : b + 1]) for a, b in zip(starts, ends, strict=True)]


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def perplexity(training: Training, text: Tensor, layers: int) -> float:
    """Of the weights that would be shipped."""
    states: list[State | None] = [None] * layers
    total = 0.0
    with training.shipped() as model:
        for words, targets in windows(text):
            logits, states = model(words, states)
            total += loss_of(logits, targets).item() * len(words)
    mean = total / (len(text) - 1)
    return math.exp(mean) if mean < 700 else math.inf


def train_epoch(training: Training, model: LanguageModel, text: Tensor) -> float:
    """One pass, states carried from window to window; the loss of the last window."""
    states: list[State | None] = [None] * len(model.layers)
    loss = torch.tensor(math.nan)
    for words, targets in windows(text):
        if training.finished:
            break
        logits, after = model(words, states)
        states = [(h.detach(), c.detach()) for h, c in after]
        training.optimizer.zero_grad()
        loss = loss_of(logits, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        training.step()
    return loss.item()


def inner_optimizer(model: nn.Module, options: argparse.Namespace) -> torch.optim.Optimizer:
    """SGD without momentum, as in the paper, or Adam."""
    kind = torch.optim.Adam if options.inner == "adam" else torch.optim.SGD
    lr = options.lr or {"adam": 0.005, "sgd": 30.0}[options.inner]
    return kind(model.parameters(), lr=lr, weight_decay=options.weight_decay)


def main(arguments: list[str] | None = None) -> None:
    parser = options_of(DESCRIPTION, weight_decay=1.2e-6, batch=80, epochs=750)
    parser.add_argument("--inner", choices=["sgd", "adam"], default="adam")
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    texts, vocabulary = load(options)
    train, val, test = (columns(text, options.batch) for text in texts)
    width, hidden = (16, 32) if options.tiny else (400, 1150)
    model = LanguageModel(vocabulary, width, hidden).to(device())
    training = Training(model, inner_optimizer(model, options), options)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        training.optimizer, factor=0.5, patience=PATIENCE
    )
    for epoch in range(1, options.epochs + 1):
        loss = train_epoch(training, model, train)
        scores = [perplexity(training, text, len(model.layers)) for text in (val, test)]
        schedule.step(scores[0])
        report(
            epoch=epoch,
            step=training.taken,
            train_loss=loss,
            val_perplexity=scores[0],
            test_perplexity=scores[1],
        )
        if training.finished:
            break


if __name__ == "__main__":
    main()
