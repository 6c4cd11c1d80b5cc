"""What is pushed to the hub, by a stand-in on loopback that keeps it."""

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from error_state import state
from undrift import cli
from undrift.api import hub
from undrift.exceptions import InvalidInput
from undrift.measurement.profile import ErrorProfile


class StandIn(BaseHTTPRequestHandler):
    """The few calls of the hub that a push makes; what is committed is kept by path."""

    def answer(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        known = self.headers.get("Authorization") == "Bearer hf_test"
        self.answer(
            {"name": "me", "type": "user"} if known else {"error": "no token"},
            200 if known else 401,
        )

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        place = self.server.address
        if self.path.endswith("/repos/create"):
            self.server.created.append(json.loads(body)["name"])
            self.answer({"url": f"{place}/me/digits", "name": "me/digits"})
        elif self.path.endswith("/validate-yaml"):
            header = json.loads(body)["content"].split("---")[1]
            is_valid = yaml.safe_load(header)["library_name"] == "diffusers"
            self.answer({"errors": [], "warnings": []}, 200 if is_valid else 400)
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            regular = {"uploadMode": "regular", "shouldIgnore": False}
            self.answer({"files": [{"path": name} | regular for name in names]})
        elif "/commit/" in self.path:
            rows = [json.loads(line) for line in body.splitlines()]
            for row in (row["value"] for row in rows if row["key"] == "file"):
                self.server.files[row["path"]] = base64.b64decode(row["content"])
            oid = "a" * 40
            url = f"{place}/me/digits/commit/{oid}"
            self.answer({"commitUrl": url, "commitOid": oid, "pullRequestUrl": None})
        else:
            self.answer({"error": self.path}, 404)

    def log_message(self, *words):
        """Say nothing."""


@pytest.fixture
def server(monkeypatch):
    """A stand-in, which the client takes for the hub."""
    import huggingface_hub.constants
    import huggingface_hub.hf_api

    found = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    found.files, found.created = {}, []
    found.address = f"http://127.0.0.1:{found.server_port}"
    for module in (huggingface_hub.constants, huggingface_hub.hf_api.constants):
        monkeypatch.setattr(module, "ENDPOINT", found.address)
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def profile():
    states = (state(10), state(0))
    return ErrorProfile(states, 64, 64, {"seed": 0}, label="digits")


def test_the_files_the_card_and_the_profile_arrive_as_they_are(server, tmp_path):
    (tmp_path / "unet").mkdir()
    weights = bytes(range(256)) * 40
    (tmp_path / "unet" / "model.safetensors").write_bytes(weights)
    (tmp_path / "model_index.json").write_text("{}")
    hub.check_target("me/digits")
    made = {"base": "owner/base", "data": "digits", "method": "a|b", "remedy": None}
    address = hub.push(tmp_path, "me/digits", made, profile())
    assert address == f"{server.address}/me/digits" and server.created == ["digits"]
    files = server.files
    assert files["unet/model.safetensors"] == weights and files["model_index.json"] == b"{}"
    assert ErrorProfile.from_dict(json.loads(files[hub.PROFILE])) == profile()
    assert files[hub.FIGURE].startswith(b"\x89PNG")
    text = files[hub.CARD].decode()
    assert text.startswith("---\nlibrary_name: diffusers\n") and 'base_model: "owner/base"' in text
    assert "| data | `digits` |" in text and "`a\\|b`" in text and "remedy" not in text
    assert profile().summary() in text and f"({hub.FIGURE})" in text


@pytest.mark.parametrize("name", ["digits", "a/b/c", "me/", "me/dig its"])
def test_a_name_that_is_none_is_refused_before_the_network(name):
    with pytest.raises(InvalidInput, match="give OWNER/NAME"):
        hub.check_target(name)


def test_a_token_that_the_hub_does_not_know_is_refused_before_any_work(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(InvalidInput, match="cannot push to me/digits: .*log in with hf auth login"):
        hub.check_target("me/digits")


def test_a_finished_run_is_pushed_by_train_and_loads_again(server, tmp_path, capsys):
    """The pipeline that arrives makes the images of the one that was trained."""
    import torch
    from diffusers import DDPMPipeline

    options = {"steps": 2, "batch-size": 8, "sample-every": 0, "chain.num-steps": 8}
    options |= {"output": tmp_path / "run", "push-to-hub": "me/digits"}
    words = [f"--{key}={value}" for key, value in options.items()]
    words += ["--model.block-out-channels", "[8,8]", "--model.norm-num-groups=4", "--quiet"]
    assert cli.main(["train", *words]) == 0
    assert f"pushed     {server.address}/me/digits" in capsys.readouterr().out
    for path, content in server.files.items():
        file = tmp_path / "again" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    made = [
        DDPMPipeline.from_pretrained(folder).unet.state_dict()
        for folder in (tmp_path / "again", tmp_path / "run" / "pipeline")
    ]
    assert all(torch.equal(a, b) for a, b in zip(*(each.values() for each in made), strict=True))
    found = json.loads(server.files[hub.PROFILE])
    assert found["num_samples"] == 250 and len(found["states"]) == 4


def test_what_advise_found_is_pushed_with_its_solver(server, tmp_path, capsys):
    """The folder that arrives is the one that was written, and its card has the verdict."""
    import torch
    from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel

    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,), layers_per_block=1,
        norm_num_groups=4, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    DDPMPipeline(network, DDPMScheduler(40)).save_pretrained(tmp_path / "model")
    words = ["--num-inference-steps=4", "--solvers=ddim", "--remedies=none", "--num-samples=64"]
    words += ["--metric=mmd_sq", "--features=pixels", "--data=digits", "--push-to-hub=me/digits"]
    folder = tmp_path / "advice"
    line = ["advise", str(tmp_path / "model"), *words, f"--output={folder}", "--quiet"]
    assert cli.main(line) == 0
    printed = capsys.readouterr().out
    assert f"pushed   {server.address}/me/digits" in printed
    card = server.files.pop(hub.CARD).decode()
    [verdict] = re.findall(r"^verdict  (.*)", printed, re.MULTILINE)
    assert "undrift advise" in card and f"| found | `{verdict}` |" in card
    written = {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()} - {hub.CARD}
    assert server.files.keys() == written
    for path, content in server.files.items():
        assert (folder / path).read_bytes() == content
    found = DiffusionPipeline.from_pretrained(folder)
    assert (
        type(found.scheduler).__name__
        == json.loads(server.files["scheduler/scheduler_config.json"])["_class_name"]
    )
