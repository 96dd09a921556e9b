"""Ask a vLLM server that drops 80 % of the video tokens. The server, in a terminal of its own:

    pip install vllm framefusion
    vllm serve Qwen/Qwen2.5-VL-7B-Instruct --additional-config '{"framefusion": {"rate": 0.8}}'

and the client, which is any client of OpenAI's:

    python examples/serve_vllm.py street.mp4 "What happens in this video?"

Several videos are several users at once. A server has one rate for all requests, and its log says which rule is active
(docs/guides/serving.md).
"""

import argparse
import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from openai import OpenAI

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO")
parser.add_argument("question")
parser.add_argument("--url", default="http://localhost:8000/v1")
parser.add_argument("--tokens", type=int, default=128, help="longest answer")
args = parser.parse_args()

client = OpenAI(base_url=args.url, api_key="none")
model = client.models.list().data[0].id


def ask(video: Path) -> str:
    """The answer, and how many tokens the prompt had after pruning."""
    url = "data:video/mp4;base64," + base64.b64encode(video.read_bytes()).decode()
    content = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": args.question}]
    reply = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": content}], max_tokens=args.tokens, temperature=0
    )
    return f"{video}: {reply.choices[0].message.content.strip()}  ({reply.usage.prompt_tokens} tokens in the prompt)"


with ThreadPoolExecutor(len(args.videos)) as users:
    for line in users.map(ask, args.videos):
        print(line)
