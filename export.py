"""Writes a trained policy for a robot: programs for jax or ONNX Runtime, and a description.

python export.py --checkpoint=exp/<group>/<env>/<run> --output=policy/
"""

import experiments.interruptible  # noqa: F401

# isort: split
from absl import app, flags, logging

from experiments.command_line import one_line_errors, refuse_arguments
from training.export import FORMATS, export_policy

FLAGS = flags.FLAGS

flags.DEFINE_string('checkpoint', None, 'Run or checkpoint.', required=True)
flags.DEFINE_string('output', None, 'Folder to write, new or empty.', required=True)
flags.DEFINE_integer('seed', None, 'One of the seeds trained together; default: the first.')
flags.DEFINE_list('formats', ['jax'], f'Formats to write: {", ".join(FORMATS)}; all but jax need '
                  'requirements-export.txt.')  # fmt: skip


def main(argv) -> None:
    refuse_arguments(argv)
    if not FLAGS['verbosity'].present:
        logging.set_verbosity(logging.WARNING)
    written = export_policy(FLAGS.checkpoint, FLAGS.output, FLAGS.seed, FLAGS.formats)
    print(
        'Wrote {output}: {method} for {env_name}, {phase} step {step:,}, best of {num_samples}, '
        'chunks of {chunk_length}'.format(output=FLAGS.output, **written)
    )


if __name__ == '__main__':
    with one_line_errors():
        app.run(main, flags_parser=FLAGS)
