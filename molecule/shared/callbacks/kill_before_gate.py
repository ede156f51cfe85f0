"""An Ansible callback that kills the controller between switch and gate, as a laptop does that loses its power."""  # noqa: INP001  # Ansible finds it by its directory

from __future__ import annotations

import os
import signal
from typing import Any

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "kill_before_gate"

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:  # noqa: ARG002  # Ansible's call
        if "switch | Judge" in task.get_name():
            os.kill(os.getpid(), signal.SIGKILL)
