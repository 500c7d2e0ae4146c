"""List the commands of melanoma_tf."""

from tfrecord_tools.core import cli

if __name__ == "__main__":
    cli.run_package("melanoma_tf")
