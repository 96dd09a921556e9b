"""From a file and a question to an answer and its report: decoding, prompts, checkpoints, what it costs."""
