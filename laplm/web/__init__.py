"""The page of ``laplm serve``: plain files, with no build step and nothing from outside.

``index.html`` is served at ``/`` and ``assets/`` at ``/assets/``. The page is a client of the HTTP
API and knows nothing else of laplm.
"""

from __future__ import annotations

from pathlib import Path

DIRECTORY = Path(__file__).parent
"""Where the files are."""
