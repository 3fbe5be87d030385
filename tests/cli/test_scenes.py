"""`cli.scenes`: every pool has one, its session is taken by that pool, and its recording is there."""

import io
from urllib.parse import parse_qsl, urlsplit

import pytest
from rich.console import Console

from cli import audio_file, scenes
from cli.client import Request
from cli.scenes import SCENES, Scene
from wire.params import parse_query
from wire.speech_models import POOLS as KNOWN
from workers.entry import POOLS


def test_every_pool_has_a_scene_and_there_are_no_others() -> None:
    assert set(POOLS) <= {scene.pool for scene in SCENES} <= set(KNOWN)
    assert [scene.pool for scene in scenes.of(KNOWN)] == [pool for pool in KNOWN if pool in POOLS]


def test_only_what_was_chosen_is_played() -> None:
    assert [scene.pool for scene in scenes.of(["multilang"])] == ["multilang"]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.pool)
def test_the_session_goes_to_its_pool(scene: Scene) -> None:
    params = parse_query(parse_qsl(urlsplit(Request(**scene.asked).url()).query))
    assert params.pool == scene.pool
    assert params.language_detection is (scene.pool == "multilang")
    assert bool(params.prompt and params.keyterms_prompt) is (scene.pool == "u3pro")


def test_all_of_it_is_short() -> None:
    assert sum(scene.seconds for scene in SCENES) < 40


@pytest.mark.weights
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.pool)
def test_the_recording_is_there(scene: Scene, tmp_path) -> None:
    path = scene.recording(tmp_path, Console(file=io.StringIO()))
    assert audio_file.describe(path).duration_s > 3
