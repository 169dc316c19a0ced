"""Window decoders over lists of requests: slots that are kept full, and rows of codes as they are decided."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lumina_jax.sampling.batch import (
    SENTENCE_BUCKET,
    SLOT_BUCKET,
    DrawnRow,
    Job,
    Network,
    padded_count,
    policy_of,
    round_up,
)
from lumina_jax.sampling.policy import Policy
from lumina_jax.sampling.rules import Accept, Rule
from lumina_jax.sampling.slot_state import (
    CHUNK,
    Arrival,
    Program,
    Sentence,
    admit,
    empty_state,
    halt,
    share,
)
from lumina_jax.sampling.window import advance

PASSES = 8  # between two looks at what is finished


class Sizes(NamedTuple):
    """The padded sizes of a set of slots; every request that fits shares its programs."""

    num_slots: int  # T, cache slots of a row
    context_length: int  # C
    num_tokens: int  # N, of an image sentence and a window beyond it


class Slots:
    """B places for requests with R streams each, and the state of those that are being drawn."""

    def __init__(
        self,
        network: Network,
        rule: Rule,
        sizes: Sizes,
        policy: Policy,
        device: Any = None,
        whole_policy: bool = False,
    ):
        """Empty slots; `policy` has the shape of theirs, its values are placeholders.

        `device`: where the weights of `network` are and the state shall be; None: where JAX puts it. `whole_policy`:
        the policies have every array (`make_policy`), so that requests with any settings come into these slots.
        """
        self._network, self._sizes = network, sizes
        self._program = Program(network.config, network.codes, rule, network.layout)
        state = empty_state(self._program, policy, sizes.num_slots, sizes.num_tokens)
        self._state = state if device is None else jax.device_put(state, device)
        self._whole_policy = whole_policy
        self._jobs: list[Job | None] = [None] * len(policy.seed)
        self._read: list[list[bytes] | None] = [None] * len(self._jobs)  # contexts in the cache
        self._told = [0] * len(self._jobs)
        self._waiting: tuple[Sentence, list[Job | None]] | None = None

    @property
    def free(self) -> list[int]:
        """Slots that can take a request."""
        return [slot for slot, job in enumerate(self._jobs) if job is None]

    @property
    def busy(self) -> bool:
        """Whether any slot holds a request."""
        return len(self.free) < len(self._jobs)

    def put(self, slot: int, job: Job) -> None:
        """Begin a request in a free slot; contexts that are in the cache already are copied, not read again."""
        arrival = make_arrival(job, self._sizes, self._whole_policy)
        contexts = [context.tobytes() for context in job.contexts]
        if contexts in self._read:
            source = self._read.index(contexts)
            self._state = share(
                self._network.params,
                self._state,
                jnp.int32(source),
                jnp.int32(slot),
                arrival,
                self._program,
            )
        else:
            args = self._network.params, self._state, jnp.int32(slot), arrival
            self._state = admit(*args, self._program)
        self._jobs[slot], self._read[slot], self._told[slot] = job, contexts, 0

    def drop(self, job: Job) -> None:
        """Give up a request; its slot is free at once. Nothing where it is finished."""
        for slot in [slot for slot, held in enumerate(self._jobs) if held is job]:
            self._state = halt(self._state, jnp.int32(slot))
            self._jobs[slot] = None

    def step(self) -> list[DrawnRow]:
        """PASSES more passes. Returns the rows that the call before had finished; the device works on meanwhile."""
        passes = jnp.int32(PASSES)
        self._state, seen = advance(self._network.params, self._state, passes, self._program)
        waiting, self._waiting = self._waiting, (seen, list(self._jobs))
        return [] if waiting is None else list(self._rows(*waiting))

    def _rows(self, seen: Sentence, jobs: list[Job | None]) -> Iterator[DrawnRow]:
        ids, place, passes = (np.asarray(each) for each in (seen.ids, seen.place, seen.passes))
        stop = np.asarray(seen.stop)
        for slot, job in enumerate(jobs):
            if job is None or job is not self._jobs[slot]:
                continue
            runs = job.plan.runs
            # Nothing is drawn from `stop` on: what is given there stands.
            num_known = place[slot] if place[slot] < stop[slot] else len(job.plan.sentence)
            while self._told[slot] < len(runs) and runs[self._told[slot]][1] <= num_known:
                row_index = self._told[slot]
                self._told[slot] += 1
                done = self._told[slot] == len(runs)
                codes = ids[slot, slice(*runs[row_index])] - self._network.codes[0]
                count = int(passes[slot]) if done else None
                yield DrawnRow((job.index,), row_index, codes[None].astype(np.int32), count)
                if done:
                    self._jobs[slot] = None


def decode(network: Network, jobs: Sequence[Job], limit: int, accept: Accept) -> Iterator[DrawnRow]:
    """Draw jobs of any sizes; up to `limit` at a time, and a finished one makes room for the next."""
    settings = jobs[0].settings
    rule = Rule(accept, settings.window, settings.drafts, settings.branches)
    num_slots = min(limit, padded_count(len(jobs), network.layout))
    filled = [jobs[0]] * num_slots
    sizes = sizes_of(jobs, rule)
    slots = Slots(network, rule, sizes, policy_of(filled, sizes.num_tokens))
    waiting, num_left = deque(jobs), len(jobs)
    while num_left:
        for slot in slots.free[: len(waiting)]:
            slots.put(slot, waiting.popleft())
        for row in slots.step():
            num_left -= row.passes is not None
            yield row


def sizes_of(jobs: Sequence[Job], rule: Rule) -> Sizes:
    """The smallest padded sizes that take all of these jobs."""
    longest = max(job.num_context_tokens for job in jobs)
    num_tokens = max(len(job.plan.sentence) for job in jobs)
    # Given codes at the beginning are part of the context and of the sentence.
    return padded_sizes(longest, num_tokens, rule, max(job.num_tokens for job in jobs))


def padded_sizes(
    context_length: int, sentence_length: int, rule: Rule, total: int | None = None
) -> Sizes:
    """The smallest padded sizes for contexts and image sentences of up to so many tokens; `total`: both together."""
    beyond = rule.window + len(rule.branches)
    num_tokens, total = sentence_length + beyond, total or context_length + sentence_length
    num_slots = max(total + beyond, round_up(context_length, CHUNK))
    return Sizes(
        round_up(num_slots, SLOT_BUCKET),
        round_up(context_length, CHUNK),
        round_up(num_tokens, SENTENCE_BUCKET),
    )


def make_arrival(job: Job, sizes: Sizes, whole_policy: bool = False) -> Arrival:
    """A request in the shapes that `admit` takes; `whole_policy` as of `make_policy`."""
    plan, place = job.plan, len(job.plan.lead)
    contexts = np.zeros((len(job.contexts), sizes.context_length), np.int32)
    for row, context in zip(contexts, job.contexts, strict=True):
        row[: len(context)] = context
    lengths = np.array([len(context) for context in job.contexts], np.int32)
    table = np.zeros(sizes.num_tokens, np.int32)
    table[: len(plan.sentence)] = plan.sentence
    row = policy_of([job], sizes.num_tokens, whole_policy)
    number = jnp.int32
    sentence = Sentence(
        table=jnp.asarray(table),
        ids=jnp.asarray(table),
        place=number(place),
        known=number(place),
        stop=number(plan.span[1]),
        stride=number(plan.stride),
        passes=number(0),
    )
    policy: Policy = jax.tree.map(lambda leaf: leaf[0], row)
    return Arrival(
        jnp.asarray(contexts),
        jnp.asarray(lengths),
        jnp.asarray(lengths - place),
        sentence,
        policy,
    )
