"""One case of the benchmark: who takes part, whether their results are right, and their times."""

import cases
import machine
import measure
import peers
import summary
import torch
from problem import Problem


class CaseError(Exception):
    """Why there is nothing to measure."""


def contestants_of(case, problem, chosen):
    """The calls to time, and what each is off by; ours have to be right before they are fast. A peer
    that fails, as a compiler may, is left out with a note."""
    calls, errors, notes = {"floor": problem.floor}, {}, []
    for peer in [*chosen, peers.OURS]:
        try:
            call = problem.contestant(peer.prepare())
            found = problem.errors(call())
        except Exception as error:
            if peer is peers.OURS:
                raise
            notes.append(f"{case.name}: without {peer.name}: {machine.brief_error(error)}")
            continue
        if peer is peers.OURS and not max(found.values()) <= 1:
            raise CaseError(f"torchbn is wrong; errors in units of the allowed one: {found}")
        calls[peer.name], errors[peer.name] = call, summary.rounded(max(found.values()), 2)
    if not summary.peers_of(calls):
        raise CaseError(f"no peer is left to measure against: {'; '.join(notes)}")
    return calls, errors, notes


def cold_calls(problem, calls, chosen, count):
    """Of everyone a call that rotates through so many tensors of its own."""
    problems = [problem, *(problem.copy() for _ in range(count - 1))]
    cold = {"floor": measure.rotated([p.floor for p in problems])}
    for peer in [*chosen, peers.OURS]:
        if peer.name in calls:
            batch_norm = peer.prepare()
            cold[peer.name] = measure.rotated([p.contestant(batch_norm) for p in problems])
    return cold


def in_graphs(case, calls, repeats, notes):
    """The calls as graphs; without those that cannot be captured."""
    graphs = {}
    for name, call in calls.items():
        try:
            graphs[name] = measure.captured(call, repeats)
        except Exception as error:
            if not summary.peers_of([name]):
                raise
            notes.append(f"{case.name}: without {name} in graphs: {machine.brief_error(error)}")
    return graphs


def run_case(case, options, chosen):
    """The results of one case, one, or on a GPU one for each mode; and notes."""
    with measure.stream_of(options.device):
        problem = Problem(case, options.device)
        calls, errors, notes = contestants_of(case, problem, chosen)
        common = {"operation": case.operation, "dtype": case.dtype, "layout": case.layout,
                  "shape": cases.shape_name(case.shape), "errors": errors}
        limits = dict(seconds=options.seconds, least_rounds=options.rounds)

        def result(mode, contestants, clock, repeats=1):
            times = measure.run_rounds(contestants, clock, **limits)
            times = {name: [t / repeats for t in samples] for name, samples in times.items()}
            return {**common, "mode": mode, **summary.summarize(times)}

        if options.device == "cpu":
            found = result("call", calls, measure.CpuClock())
            found["faults"] = {name: measure.page_faults(call) for name, call in calls.items()}
            return [found], notes
        clock = measure.CudaClock()
        results = [result("call", calls, clock),
                   result("graph", in_graphs(case, calls, 20, notes), clock, 20)]
        room = torch.cuda.mem_get_info()[0] / (1 + len(calls))
        count = measure.copies_for(case.tensor_bytes, machine.cache_bytes("cuda"), room)
        if count is None:
            notes.append(f"{common['shape']} {case.dtype}: not cold, as that would take more than "
                         f"{measure.MOST_COPIES} tensors")
            return results, notes
        cold = cold_calls(problem, calls, chosen, count)
        repeats = max(20, count)
        results += [result("cold call", cold, clock),
                    result("cold graph", in_graphs(case, cold, repeats, notes), clock, repeats)]
        return results, notes
