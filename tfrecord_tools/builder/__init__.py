"""The parts of a build: settings, inputs, plan, workers, output folder."""
