"""python -m simulated_cuda SCENARIO FILE [ARGUMENTS]: its findings as JSON in FILE."""

if __name__ == "__main__":  # its worker processes, which have no need of a GPU, import it again
    import json
    import sys
    from pathlib import Path

    from simulated_cuda import gpus

    gpus.install(3)
    from simulated_cuda import scenarios

    name, path, *arguments = sys.argv[1:]
    found = getattr(scenarios, name)(*arguments)
    if found:  # only the main process of several has something to say
        Path(path).write_text(json.dumps(found))
