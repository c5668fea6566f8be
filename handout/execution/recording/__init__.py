"""Records a run in its journal, and resumes a run from its journal."""
