"""One page in a browser: a video, a question, answers with all tokens and with a share of them."""
