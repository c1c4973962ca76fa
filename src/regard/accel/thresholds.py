"""The numbers by which a faster way is chosen, each with the result that shows it.

A comment names a folder of results/ or a section of docs/engineering.md. "By hand" means that no folder keeps the
figures: the section says what they were, or nothing but the number itself is left of them. None changes a result by
more than rounding. The floors below accel/ keep their own: packed rows (nn/packing.py), cache slots (nn/slots.py), and
chunks of logits (nn/loss.py).
"""

from __future__ import annotations

# --- Training on a CPU ---

#: PyTorch's threads up to which the native kernels, which use one, are used in training: PyTorch's operators take as
#: long with two threads as the kernels with one. By hand ("Attention in training", "Products in training").
KERNEL_THREADS = 2

#: Target positions, padding included, from which a part of a batch is worth a thread. By hand ("Parts of a batch side
#: by side").
THREAD_POSITIONS = 768

# --- Attention by two products, on a CPU ---

#: Queries up to which two products beat PyTorch's fused kernel. results/one-query ("Attention in a step") has one
#: query.
PLAIN_QUERIES = 8

#: Queries × keys up to which two products beat it in training, where their backward pass is 2 to 4 times faster: 2.4 ms
#: against 9 at 220 × 13. By hand ("Attention in training").
PLAIN_WEIGHTS = 128 * 128

#: Multiplications of one head's query below which PyTorch's ``bmm`` calls no BLAS, and a sum over keys beats it.
#: results/one-query: 12 keys 32 wide take 177 µs by two ``bmm`` and 118 with a sum; 13 take 96 and 109 ("Attention in
#: a step").
BMM_UNBLOCKED = 400

#: fp32 numbers in the widest register of a CPU. PyTorch's softmax of shorter rows takes ten times as
#: long; columns that fill no register are read three times as slowly. By hand ("Ranking and the output table").
REGISTER = 16

# --- Prepacked weights, where no native kernel multiplies ---

#: Inputs from which a product in fp32 with weights prepacked by oneDNN beats PyTorch's. With AVX2 a model 128 wide
#: gains nothing, by hand ("Matrix products"); with AVX-512 it does, results/products.
PREPACKED_INPUTS = 256

#: Outputs from which prepacking gains with fewer inputs: PyTorch lays a large table out anew at every call.
#: results/products, rows "128 × 5,000".
PREPACKED_OUTPUTS = 4096

#: Inputs from which int8 products by PyTorch's operators are worth quantizing them. By hand ("int8").
INT8_INPUTS = 256

# --- Ranking the output table's scores, on a CPU ---

#: Scores that are made at once where each product lays out the whole table (16 MiB in fp32). By hand ("Ranking and
#: the output table").
LOGITS = 1 << 22

#: Scores that are made at once by a prepacked table: they stay in the cache until they are ranked. By hand ("Ranking
#: and the output table").
CACHED_LOGITS = 1 << 19

#: About how many scores a column of a top-k by columns has. By hand; nothing but the number is left.
COLUMN = 32

# --- Decoding ---

#: Tokens (sentences × beam × length) from which text is worth a process of its own, or a prepared model that would
#: have to be made first. By hand ("Processes and memory pages").
PROCESS_TOKENS = 1024

#: Bytes of weights from which a model that only decodes is prepared while it is read, even if the native kernels have
#: to be compiled for it: of smaller models there is memory for the original too. By hand ("Memory of loading").
PREPARED_BYTES = 100_000_000

#: Source tokens that a CPU encodes at once. By hand ("Encoding").
ENCODED_TOKENS = 2048

#: The finished share of a running batch at which new sentences enter, or the batch is made smaller. By hand ("The
#: running batch"): between 10 and 50 % the rate hardly differs.
FINISHED_SHARE = 0.2

#: The same where a step leaves out the finished sentences, so that they cost less. By hand ("The running batch").
FINISHED_SHARE_LEFT_OUT = 0.4

#: Steps after which the host reads from an accelerator, which makes it wait. By hand; nothing but the number
#: is left.
STEPS_UNSEEN = 4
