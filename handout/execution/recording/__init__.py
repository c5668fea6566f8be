"""Records a run in a journal, and resumes an earlier run from its journal."""
