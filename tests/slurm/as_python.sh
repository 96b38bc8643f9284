#!/bin/bash
# Stands where a script has Python: as_python.sh -m unteach study run FOLDER/RUN carries out the pretended run.
exec "$UNTEACH_TEST_PYTHON" "$(dirname "$0")/pretend.py" "$(basename "$5")" "$5"
