"""List the commands of tfrecord_tools."""

from tfrecord_tools.core import cli

if __name__ == "__main__":
    cli.run_package("tfrecord_tools")
