"""`python -m lumina_jax.plan RUN_FILE --topology v5e:16x16`: would it fit, and how long would it take?"""

import os

# Before JAX is imported: plans need no accelerator, and must not wait for one.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # do not ask a cloud what machine this is
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # compiling needs no TPU to itself

from lumina_jax.cli import run_main
from lumina_jax.plan.command import main

if __name__ == "__main__":
    run_main(main)
