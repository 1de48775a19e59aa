import { type ReactNode, type Ref, useId, useState } from "react";

interface Props {
  label: string;
  name?: string;
  /** A new one is offered by password managers, the present one is filled in. */
  kind: "current-password" | "new-password";
  value: string;
  onChange: (text: string) => void;
  autoFocus?: boolean;
  hint?: ReactNode;
  invalid?: boolean;
  ref?: Ref<HTMLInputElement>;
}

/** A field for a password, which can be made readable. */
export function PasswordField({
  label,
  name = "password",
  kind,
  value,
  onChange,
  autoFocus,
  hint,
  invalid,
  ref,
}: Props) {
  const id = useId();
  const [shown, setShown] = useState(false);
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      <div className="password">
        <input
          ref={ref}
          id={id}
          name={name}
          className="input"
          type={shown ? "text" : "password"}
          autoComplete={kind}
          autoCapitalize="off"
          spellCheck={false}
          maxLength={1024}
          required
          // biome-ignore lint/a11y/noAutofocus: it is all that the form is for
          autoFocus={autoFocus}
          data-autofocus={autoFocus || undefined}
          aria-invalid={invalid || undefined}
          aria-describedby={hint === undefined ? undefined : `${id}-hint`}
          value={value}
          onChange={(e) => onChange(e.target.value)}
        />
        <button
          type="button"
          className="button quiet"
          aria-pressed={shown}
          aria-label={shown ? `Hide: ${label}` : `Show: ${label}`}
          onClick={() => setShown(!shown)}
        >
          {shown ? "Hide" : "Show"}
        </button>
      </div>
      {hint !== undefined && (
        <span id={`${id}-hint`} className="hint">
          {hint}
        </span>
      )}
    </div>
  );
}
