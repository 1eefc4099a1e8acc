//! Puts a meter into every loop of an expression, so that no message can make it run for long, and compiled regular
//! expressions into its calls of `matches()`.
//!
//! Expressions always end, but two nested comprehensions over a hostile body of a megabyte would end after hours. Each step
//! of a loop therefore reads a variable, [`STEP`] or [`HEAVY_STEP`], that ceases to exist when the share of work is
//! used up. It is read in a condition that the interpreter never defers: reading it in vain ends the evaluation.

use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, IdedExpr, LiteralValue, operators};

use super::facts::{HEAVY_STEP, STEP};
use super::regular::{self, Regular};
use super::tree::{children, children_mut};
use super::types::symbol;

/// `expression`, ready to run, and the regular expressions that its variables [`regular::variable`] stand for.
pub(crate) fn instrument(mut expression: IdedExpr) -> (IdedExpr, Vec<Regular>) {
    let mut regulars = Vec::new();
    visit(&mut expression, &mut regulars);
    (expression, regulars)
}

fn visit(node: &mut IdedExpr, regulars: &mut Vec<Regular>) {
    for child in children_mut(node) {
        visit(child, regulars);
    }
    match &mut node.expr {
        Expr::Comprehension(comprehension) => meter(comprehension),
        Expr::Call(call) if call.func_name == "matches" => compile_pattern(call, regulars),
        _ => {}
    }
}

/// Replaces `text.matches("pattern")`. Patterns were checked: whatever is not one stays as it is, and fails when it runs.
fn compile_pattern(call: &mut CallExpr, regulars: &mut Vec<Regular>) {
    let Some(IdedExpr { id, expr: Expr::Literal(LiteralValue::String(pattern)) }) = call.args.last() else { return };
    let Ok(regular) = Regular::new(pattern.inner()) else { return };
    let variable = IdedExpr { id: *id, expr: Expr::Ident(regular::variable(regulars.len())) };
    regulars.push(regular);
    call.args.pop();
    call.args.splice(0..0, call.target.take().map(|target| *target));
    call.args.push(variable);
    call.func_name = regular::MATCHES.to_owned();
}

fn meter(comprehension: &mut ComprehensionExpr) {
    let variable = if is_heavy(&comprehension.loop_step) { HEAVY_STEP } else { STEP };
    if !matches!(comprehension.loop_cond.expr, Expr::Literal(_)) {
        let condition = std::mem::take(&mut comprehension.loop_cond);
        comprehension.loop_cond = metered(variable, condition);
        return;
    }
    // The interpreter appends in place only while the condition is a plain `true`: the meter goes into the step.
    let step = &mut comprehension.loop_step;
    if let Expr::Call(CallExpr { func_name, args, .. }) = &mut step.expr
        && let (operators::CONDITIONAL, [guard, ..]) = (func_name.as_str(), args.as_mut_slice())
    {
        *guard = metered(variable, std::mem::take(guard));
    } else if is_append(step) {
        let item = appended(step);
        let metered = item.map(|item| *item = metered(variable, std::mem::take(item)));
        debug_assert!(metered.is_some(), "a step of `map` appends one item");
    } else {
        *step = metered(variable, std::mem::take(step));
    }
}

/// Whether `node` is `@result + ...`, which only the parser writes, for `map` and `filter`: the interpreter appends in place.
fn is_append(node: &IdedExpr) -> bool {
    let is_accumulator = |node: &IdedExpr| matches!(&node.expr, Expr::Ident(name) if name.starts_with('@'));
    matches!(&node.expr, Expr::Call(call) if call.func_name == operators::ADD && call.args.first().is_some_and(is_accumulator))
}

/// The item of a step `@result + [item]`.
fn appended(step: &mut IdedExpr) -> Option<&mut IdedExpr> {
    let Expr::Call(call) = &mut step.expr else { return None };
    let Expr::List(list) = &mut call.args.last_mut()?.expr else { return None };
    list.elements.first_mut()
}

/// Whether evaluating `node` can take longer, or make more, the larger the values are that it is applied to.
fn is_heavy(node: &IdedExpr) -> bool {
    /// These only look at a value, or hand it on.
    const LIGHT: [&str; 6] = ["dyn", "hasValue", "or", "orValue", "type", "value"];
    let is_literal = |node: &IdedExpr| matches!(node.expr, Expr::Literal(_));
    let here = match &node.expr {
        Expr::Call(call) => match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::IN, _) => true,
            (operators::ADD, _) => !is_append(node),
            // Comparing with a literal is done after as many steps as the literal is long.
            (name, [left, right]) if symbol(name).is_some() => !is_literal(left) && !is_literal(right),
            (name, _) => !is_operator(name) && !LIGHT.contains(&name),
        },
        _ => false,
    };
    here || children(node).into_iter().any(is_heavy)
}

/// Operators have names that no function has: `_&&_`, `!_`, `@not_strictly_false`.
fn is_operator(name: &str) -> bool {
    name.contains('_') && !name.starts_with(char::is_alphabetic)
}

/// `variable ? node : null`, which is `node` while there is work left.
fn metered(variable: &str, node: IdedExpr) -> IdedExpr {
    let id = node.id;
    let of = |expr| IdedExpr { id, expr };
    let args = vec![of(Expr::Ident(variable.to_owned())), node, of(Expr::Literal(LiteralValue::Null))];
    of(Expr::Call(CallExpr { func_name: operators::CONDITIONAL.to_owned(), target: None, args }))
}
