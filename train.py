"""Train the transformer or the VQGAN of a run file; the same command resumes a run, on every host of a cluster.

python train.py configs/scenes_quick.py [--workdir DIR] [--init CHECKPOINT] [--train.seed 1 …]
"""

import sys

from lumina_jax.cli import describe, parse_run, run_main
from lumina_jax.cluster.ending import ending_together
from lumina_jax.cluster.join import join_cluster
from lumina_jax.compile_cache import keep_compiled_programs


def main() -> None:
    """Parse, join the cluster where there is one, print the config, train."""
    options, experiment = parse_run(sys.argv[1:])
    import jax

    if options.cpu_devices > 1:
        jax.config.update("jax_num_cpu_devices", options.cpu_devices)
    if not join_cluster(options.distributed, options.heartbeat_seconds, options.join_seconds):
        keep_compiled_programs()
    with ending_together(options.workdir):
        if jax.process_index() == 0:
            print(describe(experiment), flush=True)
        from lumina_jax.evals.hooks import make_on_eval
        from lumina_jax.train.loop import train

        outcome = train(
            experiment,
            options.workdir,
            init=options.init,
            data_dir=options.data_dir,
            on_eval=make_on_eval(experiment),
        )
    if not outcome.finished:
        from lumina_jax.train.signals import STOPPED_CODE

        sys.exit(STOPPED_CODE)


if __name__ == "__main__":
    run_main(main)
