"""The programs are checked and run by the tests here, not collected."""

collect_ignore = ["programs"]
