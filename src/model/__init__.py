"""Three decoder architectures behind one forward.

    hidden, state = model(tokens, lengths, state)  # hidden (B, T, D); state: what was read so far
    state = state.select(rows)                     # repeat rows (share a prefix) or drop some
    logits = model.logits(hidden)                  # (..., D) -> (..., V), a separate call

and behind methods that read whole prefix trees (src/model/prefix_sharing/__init__.py):

    hidden = model.read_completions(levels)        # for scoring; also read_levels, read_last
    last, state = model.prefill(levels)            # to decode from

A new architecture is a folder here, a row of `MODELS` in model.py, and its name in
src/utils/constants.py. It inherits LevelByLevel, which implements these methods with `forward`.
It holds `config` (a dataclass with `vocab_size`, `block_size` and `pointer`), `width` (D) and
`embedding`, whose weight says on which device the model is. Levels are on the CPU, whatever that
device; hidden states and states are on it. Flags of its own shape go to src/utils/cli.py.

Shapes: B batch rows, T tokens, D width, V vocabulary; R rows of a level, P packed tokens, M of them
wanted; K key-value heads, G query heads for each, d the size of a head; S rows of a segment.

`tokens` (B, T) int64 is right-padded with any ids of the vocabulary; `lengths` (B,) int64 says how
many are real, 0 included. What stands in the padding never changes a result; hidden states there
are finite and mean nothing. A state is never mutated: it can be continued several times.
"""
