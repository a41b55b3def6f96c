"""What labelling costs beside what others take for it: in process, over HTTP, and as the work grows."""
