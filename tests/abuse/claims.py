"""A member who says what cannot be: tokens of 2^50, norms of 0, 1e-30, 8e18 and NaN, in its very
first message and later, steps and sequences at their largest, a heartbeat of 9e11.

Three honest sites contribute beside it, and the same three in a run without it: the run goes on,
the honest are told as many inner steps, the tokens that count stay near, and what they send is
hardly scaled down.
"""
import sys

from harness import SECONDS, Run, main, submit

ROUNDS, TOKENS, MOST, H = 7, 1000, 1 << 50, 64
STEPS = (1 << 32) - 1
LIES = ("tokens", "loud", "zero", "small", "tokens", "small", "loud")
SCALE = {"loud": 1e17, "zero": 0, "small": 1e-32}
KEYS = dict(token_budget=10_000_000, inner_steps=H, sites=4, admission__clip_minimum=4)


def lie(follower, kind, number):
    """One that is taken."""
    told = dict(tokens=MOST, inner_steps=STEPS) if kind == "tokens" else dict(tokens=TOKENS)
    return submit(follower, seed=number, scale=SCALE.get(kind, 1e-3), **told)


def refused(follower, code, **fields):
    import atoll_client
    try:
        submit(follower, **fields)
    except atoll_client.Refused as error:
        assert error.code == code, (error.code, str(error), fields)
        return
    raise AssertionError(f"{fields} was taken")


def tell_what_is_refused(follower):
    last = follower.ledger.sites[follower.site.number].last_sequence
    refused(follower, "nonfinite", norm=float("nan"))
    refused(follower, "nonfinite", norm=float("inf"))
    refused(follower, "malformed", tokens=(1 << 26) + 1, inner_steps=1)
    refused(follower, "malformed", tokens=MOST + 1, inner_steps=STEPS)
    refused(follower, "sequence", sequence=last + 1 + (1 << 16))
    refused(follower, "sequence", sequence=(1 << 64) - 1)


def run_with(names, hostile):
    """What three honest sites get, and the run's status and site list at the end."""
    import atoll_client
    with Run(**KEYS) as run:
        followers = {name: run.follow(run.join(name)) for name in names}
        for number in range(ROUNDS):
            for name in names:  # the hostile one comes first
                follower = followers[name]
                if name == hostile:
                    receipt = lie(follower, LIES[number], number)
                else:
                    receipt = submit(follower, seed=number, tokens=TOKENS)
                for one in followers.values():
                    one.wait(lambda l, at=receipt.index: at in l.merged, SECONDS)
            if hostile and number in (0, ROUNDS - 1):
                tell_what_is_refused(followers[hostile])
        for name in names:
            told = dict(steps_per_second=9e11, tokens_per_second=9e11) if name == hostile else {}
            atoll_client.heartbeat(followers[name].connection, followers[name].ledger,
                                   instance=followers[name].instance, **told)
        steps = [atoll_client.heartbeat(
            followers[name].connection, followers[name].ledger,
            instance=followers[name].instance).inner_steps for name in names if name != hostile]
        sites = {s.name: s for s in atoll_client.admin(run.admin(), "sites").sites}
        return run.federation.status(), sites, steps


def test_tokens_norms_and_steps_that_cannot_be_change_nothing_for_the_honest():
    honest = ["a", "b", "c"]
    control, _, steps = run_with(honest, None)
    status, sites, told = run_with(["liar"] + honest, "liar")
    assert status["phase"] == control["phase"] == "active", (status, control)
    assert status["inner_steps"] == control["inner_steps"] == H, status
    # they contribute in turn, so none is much slower; the liar's pace would leave them H / 8
    assert min(steps) > H / 4 and min(told) > H / 4, (told, steps)
    assert status["tokens"] <= ROUNDS * TOKENS * (3 + 8), status
    assert sites["liar"].tokens >= 2 * MOST and sites["liar"].tokens_uncounted >= 2 * MOST - 10**6
    for name in honest:
        assert sites[name].clip > 0.3 and sites[name].scale > 0.3, sites[name]
        assert sites[name].tokens == ROUNDS * TOKENS, sites[name]
    assert sites["liar"].norm > 1e17 and 0 < sites["liar"].clip < 1e-15, sites["liar"]


if __name__ == "__main__":
    sys.exit(main(globals()))
