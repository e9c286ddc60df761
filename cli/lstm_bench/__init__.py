"""lstm-bench: times LSTMs on this machine, fastlstm beside its rivals, and says how far a figure can be trusted."""
