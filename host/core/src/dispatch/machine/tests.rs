//! What the machine does about each event, as tables of events and actions.

use super::*;

const A: UnitId = UnitId(1);
const B: UnitId = UnitId(2);

fn wanted(units: &[(UnitId, usize)]) -> Event {
    Event::Consumers(units.iter().map(|(id, permits)| Wanted { id: *id, permits: *permits, held: false }).collect())
}

fn machine(slots: usize, units: &[(UnitId, usize)]) -> (Machine, Vec<Action>) {
    let mut machine = Machine::new(slots, Tuning::default());
    let actions = on(&mut machine, wanted(units));
    (machine, actions)
}

fn on(machine: &mut Machine, event: Event) -> Vec<Action> {
    let mut actions = Vec::new();
    machine.on(event, &mut actions);
    actions
}

fn leased(unit: UnitId, messages: usize) -> Event {
    Event::Leased(unit, Hand { messages, ..Hand::default() })
}

fn cut(unit: UnitId, runs: &[usize]) -> Event {
    Event::Leased(unit, Hand { messages: runs.iter().sum(), runs: runs.iter().copied().collect(), alone: 0 })
}

fn alone(unit: UnitId, messages: usize, alone: usize) -> Event {
    Event::Leased(unit, Hand { messages, runs: VecDeque::new(), alone })
}

fn ended(unit: UnitId, messages: usize, micros: u64) -> Event {
    Event::RunEnded { unit, messages, busy: Duration::from_micros(micros) }
}

fn lease(unit: UnitId, messages: usize, run: usize) -> Action {
    Action::Lease { unit, messages, run }
}

#[test]
fn leases_no_more_than_its_permits_could_start() {
    let (mut machine, actions) = machine(100, &[(A, 3)]);
    assert_eq!(actions, [lease(A, 3, 1)], "runs of one while nothing is known");
    let runs = on(&mut machine, leased(A, 3));
    assert_eq!(runs, [Action::Run(A, 1), Action::Run(A, 1), Action::Run(A, 1)], "and no lease: no permit is free");
    assert_eq!(on(&mut machine, ended(A, 1, 10)), [lease(A, 64, 64)], "10 us a message: 64 to a run");
}

#[test]
fn long_handlers_get_runs_of_one() {
    let (mut machine, _) = machine(100, &[(A, 1)]);
    on(&mut machine, leased(A, 1));
    assert_eq!(on(&mut machine, ended(A, 1, 50_000)), [lease(A, 1, 1)]);
}

#[test]
fn slots_are_shared_in_turn() {
    let (mut machine, actions) = machine(1, &[(A, 5), (B, 5)]);
    assert_eq!(actions, [lease(A, 1, 1), lease(B, 1, 1)]);
    assert_eq!(on(&mut machine, leased(A, 1)), [Action::Run(A, 1)]);
    assert_eq!(on(&mut machine, leased(B, 1)), [], "the slot is taken");
    let next = on(&mut machine, ended(A, 1, 2_000));
    assert_eq!(next, [Action::Run(B, 1)], "B was waiting; A leases again when a slot is free");
}

#[test]
fn settling_is_bounded() {
    let (mut machine, _) = machine(10, &[(A, 1)]);
    machine.tuning.settling_messages_max = 1;
    on(&mut machine, leased(A, 1));
    assert_eq!(on(&mut machine, ended(A, 1, 10)), [], "its settlement is not committed yet");
    assert_eq!(on(&mut machine, Event::Settled(A, 1)), [lease(A, 64, 64)]);
}

#[test]
fn a_consumer_that_is_gone_gives_back_what_it_has() {
    let (mut machine, _) = machine(10, &[(A, 1)]);
    assert_eq!(on(&mut machine, wanted(&[])), [Action::CancelLease(A)]);
    assert_eq!(on(&mut machine, leased(A, 1)), [Action::Release(A)]);
    assert!(machine.is_idle() && !machine.knows(A));
}

#[test]
fn a_paused_consumer_ends_what_runs_and_goes_on_when_resumed() {
    let (mut machine, _) = machine(10, &[(A, 2)]);
    assert_eq!(on(&mut machine, leased(A, 1)), [Action::Run(A, 1), lease(A, 1, 1)]);
    assert_eq!(on(&mut machine, wanted(&[(A, 0)])), [Action::CancelLease(A)]);
    assert_eq!(on(&mut machine, leased(A, 0)), []);
    assert_eq!(on(&mut machine, ended(A, 1, 5_000)), [], "no permit, no lease");
    assert_eq!(on(&mut machine, wanted(&[(A, 2)])), [lease(A, 2, 1)]);
}

#[test]
fn stopping_waits_for_runs_and_their_settlements() {
    let (mut machine, _) = machine(10, &[(A, 2)]);
    on(&mut machine, leased(A, 1));
    on(&mut machine, Event::Stop);
    on(&mut machine, leased(A, 0));
    assert!(!machine.is_idle());
    on(&mut machine, ended(A, 1, 10));
    assert!(!machine.is_idle(), "not settled yet");
    assert_eq!(on(&mut machine, Event::Settled(A, 1)), []);
    assert!(machine.is_idle());
}

#[test]
fn runs_that_are_cut_already_are_never_cut_again() {
    let (mut machine, _) = machine(2, &[(A, 16)]);
    assert_eq!(on(&mut machine, cut(A, &[70, 3, 9])), [Action::Run(A, 70), Action::Run(A, 3)], "two slots");
    assert_eq!(on(&mut machine, ended(A, 3, 30)), [Action::Run(A, 9)]);
    assert_eq!(on(&mut machine, ended(A, 9, 90)), [lease(A, 64, 64)], "and only then is leased again");
    assert_eq!(on(&mut machine, wanted(&[])), [Action::CancelLease(A)]);
    assert_eq!(on(&mut machine, cut(A, &[4, 4])), [Action::Release(A)], "both");
    on(&mut machine, wanted(&[(A, 16)]));
    assert_eq!(on(&mut machine, leased(A, 2)), [Action::Run(A, 2)], "nothing of what was given back is left");
}

#[test]
fn what_is_to_be_alone_waits_until_all_runs_ended_and_holds_up_all_others() {
    let (mut machine, _) = machine(10, &[(A, 2), (B, 2)]);
    assert_eq!(on(&mut machine, leased(A, 1)), [Action::Run(A, 1), lease(A, 1, 1)]);
    assert_eq!(on(&mut machine, alone(B, 1, 2)), [], "A runs");
    assert_eq!(on(&mut machine, leased(A, 1)), [], "it waits too, in hand");
    assert_eq!(on(&mut machine, ended(A, 1, 5_000)), [Action::RunAlone(B)]);
    assert_eq!(on(&mut machine, Event::Settled(A, 1)), [], "B's message runs alone");
    assert_eq!(on(&mut machine, ended(B, 1, 5_000)), [Action::RunAlone(B)], "there are two");
    let all = on(&mut machine, ended(B, 1, 5_000));
    assert_eq!(all, [Action::Run(A, 1), lease(A, 1, 1), Action::Run(B, 1), lease(B, 1, 1)]);
}

#[test]
fn what_is_to_be_alone_is_given_back_with_the_rest_when_its_consumer_goes() {
    let (mut machine, _) = machine(10, &[(A, 2), (B, 2)]);
    on(&mut machine, leased(A, 1));
    assert_eq!(on(&mut machine, alone(B, 0, 1)), []);
    assert_eq!(on(&mut machine, leased(A, 0)), [], "nothing is leased meanwhile");
    let after = on(&mut machine, wanted(&[(A, 2)]));
    assert_eq!(after, [Action::Release(B), lease(A, 1, 1)], "and A goes on at once");
    assert!(!machine.knows(B));
}

#[test]
fn a_consumer_that_is_held_back_gets_one_message_when_it_is_let_through() {
    let (mut machine, _) = machine(10, &[(A, 2)]);
    assert_eq!(on(&mut machine, leased(A, 1)), [Action::Run(A, 1), lease(A, 1, 1)]);
    assert_eq!(on(&mut machine, Event::Hold(A, true)), [Action::CancelLease(A)]);
    assert_eq!(on(&mut machine, leased(A, 1)), [Action::Release(A)], "it came too late to be cancelled");
    assert_eq!(on(&mut machine, ended(A, 1, 10)), [], "what ran has ended; nothing more");
    assert_eq!(on(&mut machine, Event::Single(A, 3)), [lease(A, 3, 3)]);
    assert_eq!(on(&mut machine, leased(A, 0)), [lease(A, 3, 3)], "there was none: it waits for one");
    assert_eq!(on(&mut machine, leased(A, 3)), [Action::RunSingle(A)], "one of the three");
    assert_eq!(on(&mut machine, Event::Settled(A, 1)), []);
    assert_eq!(on(&mut machine, ended(A, 1, 10)), [], "that was it");
    assert_eq!(on(&mut machine, Event::Hold(A, false)), [lease(A, 128, 64)]);
}

#[test]
fn one_that_is_let_through_waits_for_a_permit_like_any_other() {
    let (mut machine, _) = machine(10, &[(A, 1)]);
    on(&mut machine, leased(A, 1));
    on(&mut machine, Event::Hold(A, true));
    assert_eq!(on(&mut machine, Event::Single(A, 1)), [], "its one permit is taken");
    assert_eq!(on(&mut machine, ended(A, 0, 0)), [lease(A, 1, 1)]);
    assert_eq!(on(&mut machine, alone(A, 1, 1)), [Action::RunAlone(A), Action::Release(A)], "one, and no more");
    assert_eq!(on(&mut machine, ended(A, 1, 10)), []);
    assert_eq!(
        on(&mut machine, Event::Single(B, 1)),
        [],
        "one that is not held back, or not known, is not let through"
    );
}

#[test]
fn a_new_plan_holds_back_who_was_held_back() {
    let (mut machine, _) = machine(10, &[(A, 1)]);
    on(&mut machine, Event::Hold(A, true));
    on(&mut machine, leased(A, 0));
    assert_eq!(on(&mut machine, Event::Single(A, 1)), [lease(A, 1, 1)]);
    let again = |held| Event::Consumers(vec![Wanted { id: A, permits: 2, held }]);
    assert_eq!(on(&mut machine, again(true)), [Action::CancelLease(A)], "who lets it through does so again");
    assert_eq!(on(&mut machine, leased(A, 0)), []);
    assert_eq!(on(&mut machine, again(false)), [lease(A, 2, 1)]);
}
